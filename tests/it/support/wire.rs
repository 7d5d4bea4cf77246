//! A wire to PostgreSQL that can be cut at a certain message, before or after what it asks for has happened.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::cluster::TestDatabase;

/// When to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The message never reaches the server.
    Before,
    /// The server has done what the message asks for, and its answer is lost.
    After,
    /// As before, but nobody is told: the connection stays, and nothing comes over it any more.
    SilentlyBefore,
    SilentlyAfter,
}

impl Cut {
    pub const ALL: [Cut; 4] = [Cut::Before, Cut::After, Cut::SilentlyBefore, Cut::SilentlyAfter];
}

#[derive(Clone)]
pub struct Wire {
    options: PgConnectOptions,
    plan: Arc<Mutex<Option<(Cut, &'static str)>>>,
}

impl Wire {
    /// For as long as the test's runtime lasts.
    pub async fn to(database: &TestDatabase) -> Wire {
        let server = database.options();
        let folder = server.get_socket().expect("the cluster listens on a socket only");
        let socket = folder.join(format!(".s.PGSQL.{}", server.get_port()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(listener.local_addr().unwrap().port())
            .username(server.get_username())
            .database(server.get_database().expect("a test's database has a name"))
            .ssl_mode(PgSslMode::Disable);
        let wire = Wire { options, plan: Arc::default() };
        let plan = wire.plan.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, socket.clone(), plan.clone()));
            }
        });
        wire
    }

    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Cuts the connection that next carries a message with this text in it.
    pub fn cut(&self, when: Cut, at: &'static str) {
        *self.plan.lock().unwrap() = Some((when, at));
    }

    /// Whether it has been cut as planned.
    pub fn is_cut(&self) -> bool {
        self.plan.lock().unwrap().is_none()
    }
}

/// Carries one connection, until somebody hangs up or it is cut.
async fn carry(mut client: TcpStream, socket: PathBuf, plan: Arc<Mutex<Option<(Cut, &'static str)>>>) {
    let mut server = UnixStream::connect(socket).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            length = client.read(&mut asked) => {
                let Ok(length @ 1..) = length else { return };
                let message = &asked[..length];
                let planned = plan.lock().unwrap().take_if(|(_, at)| {
                    message.windows(at.len()).any(|part| part == at.as_bytes())
                });
                let cut = planned.map(|(cut, _)| cut);
                if !matches!(cut, Some(Cut::Before | Cut::SilentlyBefore)) {
                    server.write_all(message).await.unwrap();
                }
                if matches!(cut, Some(Cut::After | Cut::SilentlyAfter)) {
                    // An answer is flushed when all of it is there, which is after the commit.
                    let _answer = server.read(&mut answered).await;
                }
                match cut {
                    None => {}
                    Some(Cut::Before | Cut::After) => return,
                    Some(Cut::SilentlyBefore | Cut::SilentlyAfter) => std::future::pending().await,
                }
            }
            length = server.read(&mut answered) => {
                let Ok(length @ 1..) = length else { return };
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
