//! A DNS server of the test's own, which says of each name what the test wants, and of one something else each time.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// Answers for a name, one after the other; the last one stays.
type Answers = Vec<Vec<IpAddr>>;

/// Serves these names on 127.0.0.1, and has this process's resolver ask there and nowhere else. Needs a mount namespace.
pub fn serve(names: &[(&str, &[&[&str]])]) {
    let parse = |answers: &[&[&str]]| -> Answers {
        answers.iter().map(|one| one.iter().map(|address| address.parse().unwrap()).collect()).collect()
    };
    let names: HashMap<String, (Answers, [usize; 2])> =
        names.iter().map(|(name, answers)| ((*name).to_owned(), (parse(answers), [0, 0]))).collect();
    let names = Arc::new(Mutex::new(names));
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((bytes, from)) = socket.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..bytes], &mut names.lock().unwrap()) {
                let _gone = socket.send_to(&answer, from);
            }
        }
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"nameserver 127.0.0.1\noptions timeout:2 attempts:2\n").unwrap();
    let (_, path) = file.keep().unwrap();
    let mounted = Command::new("mount").arg("--bind").arg(&path).arg("/etc/resolv.conf").status().unwrap();
    assert!(mounted.success(), "the resolver's configuration cannot be replaced");
    std::fs::remove_file(path).unwrap();
}

/// Of each name, addresses of the kind that is asked for.
fn answer(query: &[u8], names: &mut HashMap<String, (Answers, [usize; 2])>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let question = query.get(12..at + 4)?;
    let mut found = Vec::new();
    if let Some((answers, asked)) = names.get_mut(&labels.join(".")) {
        // A resolver asks for both kinds at once: each kind counts its own questions.
        let turn = &mut asked[usize::from(kind == 28)];
        let addresses = &answers[(*turn).min(answers.len() - 1)];
        *turn += 1;
        found = addresses.iter().filter(|address| address.is_ipv6() == (kind == 28)).copied().collect();
    }
    if kind != 1 && kind != 28 {
        found.clear();
    }
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::try_from(found.len()).ok()?, 0, 0, 0, 0]);
    answer.extend(question);
    for address in found {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        // The name of the question, its kind, class IN, no time to live.
        answer.extend([
            0xc0,
            12,
            (kind >> 8) as u8,
            kind as u8,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            u8::try_from(octets.len()).ok()?,
        ]);
        answer.extend(octets);
    }
    Some(answer)
}
