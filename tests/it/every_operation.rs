//! What holds for every operation of every surface, asked of each that `openapi.yaml` lists: a new one is covered by being documented.

mod ask;
mod malformed;
mod tenancy;

use std::time::Duration;

use crate::support::desk::{Desk, Listener};
use ask::{Ask, asks};

/// Only an operation that waits for somebody takes longer.
const PROMPTLY: Duration = Duration::from_secs(20);

async fn status(desk: &Desk, key: &str, ask: &Ask) -> u16 {
    let answer = desk.request(ask.listener, &ask.method, key, &ask.path(), ask.body(), PROMPTLY).await;
    answer.unwrap_or_else(|| panic!("{ask}: no answer")).status
}

#[tokio::test]
async fn rule_11_nothing_that_needs_a_key_says_anything_without_a_good_one() {
    let desk = Desk::open().await;
    let guarded: Vec<Ask> = asks().into_iter().filter(|ask| ask.needs_key).collect();
    assert!(guarded.len() > 20, "{}", guarded.len());
    // One that is known, and was used lately, but for its last character: what finds it is right and what proves it is wrong.
    let (_, good) = desk.partner("partner,producer,operator").await;
    assert_eq!(desk.get(&good, "/herald/v1/deliveries").await.status, 200);
    let (most, last) = good.split_at(good.len() - 1);
    let altered = format!("{most}{}", if last == "a" { "b" } else { "a" });
    for ask in guarded {
        for key in ["", "x", "hk_not_a_key_of_anybody_here", &altered] {
            assert_eq!(status(&desk, key, &ask).await, 401, "{ask} with {key:?}");
        }
    }
}

#[tokio::test]
async fn rule_11_a_key_opens_what_its_scope_says_and_nothing_else() {
    let desk = Desk::open().await;
    let (_, partner) = desk.partner("partner").await;
    let (_, producer) = desk.partner("producer").await;
    let (_, operator) = desk.partner("operator").await;
    let mut seen = [0; 3];
    for ask in asks().into_iter().filter(|ask| ask.needs_key) {
        let publishes = ask.tag == "Publishing";
        let (own, others) = match ask.listener {
            Listener::Api => (0, [&producer, &operator]),
            Listener::Operator if publishes => (1, [&partner, &operator]),
            Listener::Operator => (2, [&partner, &producer]),
        };
        seen[own] += 1;
        for key in others {
            let status = status(&desk, key, &ask).await;
            assert!([401, 403].contains(&status), "{ask}: {status}");
        }
        let status = status(&desk, [&partner, &producer, &operator][own], &ask).await;
        assert!(![401, 403].contains(&status), "{ask}: {status} with a key that has the scope");
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// The desk judges each answer's body and headers by the document, `Retry-After` among them.
#[tokio::test]
async fn rule_14_a_partner_that_asks_too_often_is_told_so_in_the_shape_of_every_surface() {
    let desk = Desk::open_limited(Some(1)).await;
    let (_, partner) = desk.partner("partner,producer").await;
    let (_, operator) = desk.partner("operator").await;
    for ask in asks().into_iter().filter(|ask| ask.needs_key) {
        let limited = ask.listener == Listener::Api || ask.tag == "Publishing";
        let key = if limited { &partner } else { &operator };
        // One may pass each second.
        let mut answers = Vec::new();
        while answers.len() < 5 && !answers.contains(&429) {
            answers.push(status(&desk, key, &ask).await);
        }
        assert_eq!(answers.contains(&429), limited, "{ask}: {answers:?}");
    }
    let (other_id, other) = desk.partner("partner").await;
    let listed = desk.get(&other, "/herald/v1/deliveries").await;
    assert_eq!(listed.status, 200, "another partner is not affected");

    // To trade a key for tokens counts as well, although the key stands in the body there.
    let form = format!("user_name={other_id}&password={other}&auth_type=password");
    let mut answers = Vec::new();
    while answers.len() < 5 && !answers.contains(&429) {
        let body = Some(("application/x-www-form-urlencoded", form.clone()));
        let path = "/rest/api/v1.3/auth/token";
        answers.push(desk.request(Listener::Api, "POST", "", path, body, PROMPTLY).await.unwrap().status);
    }
    assert!(answers.contains(&429), "{answers:?}");
}
