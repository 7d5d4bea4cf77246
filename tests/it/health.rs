//! `herald health` from outside, against operator sides that are well, unwell, silent and absent.

use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::process::Command;

/// What `herald health` makes of an operator side that answers with these bytes: its exit code and what it says.
async fn health_of(answer: Option<&'static str>) -> (Option<i32>, String) {
    let operator = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = operator.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut connection, _) = operator.accept().await.unwrap();
        let mut asked = vec![0; 1024];
        let read = connection.read(&mut asked).await.unwrap();
        if let Some(answer) = answer {
            connection.write_all(answer.as_bytes()).await.unwrap();
        } else {
            // Until the other side gives up.
            while connection.read(&mut [0; 16]).await.is_ok_and(|read| read > 0) {}
        }
        String::from_utf8_lossy(&asked[..read]).into_owned()
    });
    let ended = health(&format!("0.0.0.0:{port}")).await;
    assert!(served.await.unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
    ended
}

async fn health(operator_listen: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
    command.arg("health").env("HERALD_OPERATOR_LISTEN", operator_listen).stdin(Stdio::null());
    let output = command.kill_on_drop(true).output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn ready_is_success_and_nothing_else_is() {
    let ready = health_of(Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    assert_eq!(ready, (Some(0), String::new()));
    for (answer, said) in [
        (Some("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\nstopping"), "stopping"),
        (
            Some(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 25\r\n\r\n{\"database\":\"it's \x1b[2J\"}\n",
            ),
            "\n{\"database\":\"it's \\u001b[2J\"}\n",
        ),
        (Some("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), "404"),
        (Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut"), "no answer"),
        (Some("SSH-2.0-other\r\n"), "no answer"),
        (None, "within 3 s"),
    ] {
        let (code, stderr) = health_of(answer).await;
        assert_eq!(code, Some(1), "{answer:?}");
        assert!(stderr.contains(said), "{answer:?}: {stderr}");
    }
}

#[tokio::test]
async fn nobody_there_and_no_address_are_failures_that_say_so() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (address, said) in [(free.to_string().as_str(), "no answer from"), ("8081", "HERALD_OPERATOR_LISTEN")]
    {
        let (code, stderr) = health(address).await;
        assert_eq!(code, Some(1));
        assert!(stderr.contains(said), "{stderr}");
    }
}
