//! Sessions: opened, read, cancelled, expired.

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;

#[tokio::test]
async fn a_session_is_opened_read_and_cancelled_at_either_mount() {
    let world = world().await;
    for mount in MOUNTS {
        let (ann, id) = (world.ann.at(mount), Uuid::new_v4());
        let customer = world.customer(&ann).await;
        let asked = json!({
            "type": "NewTransactionIntent", "customerId": customer.to_string(), "locale": "en-GB", "redirectData": redirect_data(),
            "transactionData": { "currency": "EUR", "amount": 19.99, "direction": "CustomerToMerchant", "externalReference": "order-1" },
        });
        let made = ann.put(&session(id), &asked).await;
        let shown = made.json();
        assert_eq!((made.status, made.header("etag")), (200, "\"1\""));
        for field in ["type", "customerId", "locale", "redirectData", "transactionData"] {
            assert_eq!(shown[field], asked[field], "{field}");
        }
        assert_eq!((&shown["id"], &shown["merchantId"]), (&json!(id), &json!(ann.id.to_string())));
        assert_eq!((&shown["state"], &shown["createdOn"]), (&json!("Active"), &shown["lastModifiedOn"]));
        let again = ann.put(&session(id), &asked).await;
        assert_eq!((again.status, again.json()), (200, shown.clone()), "the same content again");
        assert_eq!(ann.get(&session(id)).await.json(), shown);

        let cancelled = ann.cancel(id, &[]).await;
        let body = cancelled.json();
        assert_eq!((cancelled.status, cancelled.header("etag")), (200, "\"2\""));
        assert_eq!(
            body,
            json!({
                "id": id, "state": "Cancelled", "createdOn": shown["createdOn"],
                "lastModifiedOn": body["lastModifiedOn"],
            })
        );
        let read = ann.get(&session(id)).await;
        assert_eq!((read.header("etag"), &read.json()["state"]), ("\"2\"", &json!("Cancelled")));
        let after = ann.put(&session(id), &asked).await;
        assert_eq!(
            (after.status, &after.json()["state"]),
            (200, &json!("Cancelled")),
            "it does not come back to life"
        );
    }
}

#[tokio::test]
async fn a_cancel_commits_the_event_and_the_means_to_deliver_it() {
    let world = world().await;
    world.ann.subscribed().await;
    world.ben.subscribed().await;
    let id = world.ann.opened().await;
    assert_eq!(world.ann.cancel(id, &[]).await.status, 200);
    let (payload, matched): (Vec<u8>, i32) =
        sqlx::query_as("select payload, matched from events").fetch_one(&world.database.pool).await.unwrap();
    assert_eq!((matched, world.count("unfinished").await), (1, 1), "ann's subscription and nobody else's");
    let data: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(
        (&data["id"], &data["state"], &data["type"]),
        (&json!(id), &json!("Cancelled"), &json!("NewCustomer"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_servers_that_cancel_a_session_at_once_one_does() {
    let world = world().await;
    let other = serve(&world.database.pool, &world.keys, REQUEST_TIMEOUT).await;
    for request_id in [None, Some(Uuid::new_v4().to_string())] {
        let id = world.ann.opened().await;
        let events = world.count("events").await;
        // Both read the session as it stands, and neither can write it until it is let go.
        let mut holder = world.database.pool.begin().await.unwrap();
        sqlx::query("select from redirect_sessions for update").execute(&mut *holder).await.unwrap();
        let cancel = |ann: Partner| {
            let request_id = request_id.clone();
            tokio::spawn(async move {
                let headers: Vec<_> = request_id.iter().map(|id| ("x-request-id", id.as_str())).collect();
                ann.cancel(id, &headers).await
            })
        };
        let cancels = [cancel(world.ann.clone()), cancel(world.ann.of(&other))];
        world.database.until_waiting(2).await;
        holder.rollback().await.unwrap();
        let mut replies: Vec<_> = join_all(cancels).await.into_iter().map(Result::unwrap).collect();
        replies.sort_by_key(|reply| reply.status);
        assert_eq!(replies[0].status, 200);
        match request_id {
            None => assert_eq!(replies[1].failure(), failed(400, "InvalidRedirectSessionStateTransition")),
            Some(_) => assert_eq!((replies[1].status, &replies[1].text), (200, &replies[0].text)),
        }
        assert_eq!(world.count("events").await, events + 1);
    }
}

#[tokio::test]
async fn the_other_types_of_session_and_the_default_locale() {
    let world = world().await;
    let existing = json!({
        "type": "ExistingTransactionIntent", "transactionIntentId": Uuid::new_v4(), "redirectData": redirect_data(),
    });
    let shown = world.ann.put(&session(Uuid::new_v4()), &existing).await.json();
    assert_eq!(
        (&shown["transactionIntentId"], &shown["locale"]),
        (&existing["transactionIntentId"], &json!("de-DE"))
    );
    let by_type = json!({
        "type": "NewTransactionIntent", "redirectData": redirect_data(),
        "transactionData": { "currency": "JPY", "amount": 10000, "type": "PassthroughWithdrawal" },
    });
    let shown = world.ann.put(&session(Uuid::new_v4()), &by_type).await.json();
    assert_eq!(shown["transactionData"], by_type["transactionData"]);
    assert!(shown.get("customerId").is_none());
}

#[tokio::test]
async fn the_same_id_with_other_content_is_a_duplicate() {
    let world = world().await;
    let id = world.ann.opened().await;
    let mut other = new_customer();
    other["locale"] = json!("en");
    assert_eq!(world.ann.put(&session(id), &other).await.failure(), failed(409, "DuplicateEntity"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_open_an_id_at_once_its_partner_gets_one_session_and_the_other_none() {
    let world = world().await;
    for _ in 0..5 {
        let id = Uuid::new_v4();
        let (path, asked) = (session(id), new_customer());
        let turns = (0..16).map(|turn| if turn % 2 == 0 { &world.ann } else { &world.ben });
        let replies = join_all(turns.map(|partner| partner.put(&path, &asked))).await;
        let (good, others): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status == 200);
        assert_eq!((good.len(), others.len()), (8, 8));
        assert!(good.iter().all(|reply| reply.json() == good[0].json()), "one session with one token");
        for other in others {
            assert_eq!(other.failure(), failed(400, "InvalidTriggeredBy"));
        }
    }
    assert_eq!((world.count("redirect_sessions").await, world.count("redirect_ids").await), (5, 5));
}

#[tokio::test]
async fn another_partners_session_is_not_there_to_read_and_not_ones_own_to_touch() {
    let world = world().await;
    let id = world.ann.opened().await;
    for mount in MOUNTS {
        let ben = world.ben.at(mount);
        assert_eq!(ben.get(&session(id)).await.failure(), failed(404, "RedirectSessionNotFound"));
        assert_eq!(ben.put(&session(id), &new_customer()).await.failure(), failed(400, "InvalidTriggeredBy"));
        assert_eq!(ben.cancel(id, &[]).await.failure(), failed(400, "InvalidTriggeredBy"));
        let unknown = Uuid::new_v4();
        assert_eq!(ben.get(&session(unknown)).await.failure(), failed(404, "RedirectSessionNotFound"));
        assert_eq!(ben.cancel(unknown, &[]).await.failure(), failed(404, "RedirectSessionNotFound"));
    }
    assert_eq!(world.ann.get(&session(id)).await.json()["state"], "Active");
}

#[tokio::test]
async fn a_customer_who_is_unknown_anothers_or_erased_is_not_found() {
    let world = world().await;
    let (anns, bens) = (world.customer(&world.ann).await, world.customer(&world.ben).await);
    let with = |customer: &str| json!({ "type": "NewCustomer", "redirectData": redirect_data(), "customerId": customer });
    for customer in [Uuid::new_v4().to_string(), bens.to_string()] {
        let refused = world.ann.put(&session(Uuid::new_v4()), &with(&customer)).await;
        assert_eq!(refused.failure(), failed(404, "CustomerNotFound"));
    }
    let id = Uuid::new_v4();
    assert_eq!(world.ann.put(&session(id), &with(&anns.to_string())).await.status, 200);
    world.erase(anns).await;
    for mount in MOUNTS {
        let ann = world.ann.at(mount);
        assert_eq!(ann.get(&session(id)).await.failure(), failed(404, "CustomerNotFound"));
        assert_eq!(ann.cancel(id, &[]).await.failure(), failed(404, "CustomerNotFound"));
        assert_eq!(
            ann.put(&session(id), &with(&anns.to_string())).await.failure(),
            failed(404, "CustomerNotFound")
        );
        // Whatever is asked for under its id: that the customer is gone comes before version and content.
        assert_eq!(ann.put(&session(id), &new_customer()).await.failure(), failed(404, "CustomerNotFound"));
        let stale = [("if-match", "\"7\"")];
        let conditional = ann.send("PUT", &session(id), &stale, Some(&new_customer())).await;
        assert_eq!(conditional.failure(), failed(404, "CustomerNotFound"));
        let bens = world.ben.at(mount).put(&session(id), &new_customer()).await;
        assert_eq!(bens.failure(), failed(400, "InvalidTriggeredBy"), "the owner comes before");
    }
}

#[tokio::test]
async fn a_session_expires_after_its_quarter_of_an_hour() {
    let world = world().await;
    let id = world.ann.opened().await;
    world.database.advance(TimeDelta::minutes(14)).await;
    assert_eq!(world.ann.get(&session(id)).await.json()["state"], "Active");
    world.database.advance(TimeDelta::minutes(1)).await;
    let expired = world.ann.get(&session(id)).await;
    assert_eq!((expired.header("etag"), &expired.json()["state"]), ("\"2\"", &json!("Expired")));
    let refused = world.ann.cancel(id, &[]).await;
    assert_eq!(refused.failure(), failed(400, "InvalidRedirectSessionStateTransition"));
    assert_eq!(world.count("events").await, 0);
}

#[tokio::test]
async fn a_completed_session_cannot_be_cancelled() {
    let world = world().await;
    let id = world.ann.opened().await;
    world.server.hub.complete_session(id).await.unwrap();
    let refused = world.ann.cancel(id, &[]).await;
    assert_eq!(refused.failure(), failed(400, "InvalidRedirectSessionStateTransition"));
    assert!(refused.json()["message"].as_str().unwrap().contains("Completed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_cancels_at_once_one_wins_and_the_others_find_it_cancelled() {
    let world = world().await;
    let id = world.ann.opened().await;
    let replies = join_all((0..8).map(|_| world.ann.cancel(id, &[]))).await;
    let won = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!((won, world.count("events").await), (1, 1));
    for lost in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!(lost.failure(), failed(400, "InvalidRedirectSessionStateTransition"));
    }
}

#[tokio::test]
async fn a_cancel_takes_no_body_or_any_object_and_nothing_else() {
    let world = world().await;
    let path = |id: Uuid| format!("{}/cancel", session(id));
    let key = ("x-api-key", world.ann.key.as_str());
    let json_type = ("content-type", "application/json");
    for (headers, body) in [
        (vec![key], None),
        (vec![key, json_type], Some("")),
        (vec![key, ("content-type", "text/plain")], Some("")),
        (vec![key, json_type], Some("{}")),
        (vec![key, json_type], Some(r#"{"reason":"none"}"#)),
    ] {
        let id = world.ann.opened().await;
        let reply = world.ann.send_raw("POST", &path(id), &headers, body.map(str::to_owned)).await;
        assert_eq!(reply.status, 200, "{body:?}");
    }
    let id = world.ann.opened().await;
    for body in ["[]", "null", "{", "1"] {
        let reply = world.ann.send_raw("POST", &path(id), &[key, json_type], Some(body.to_owned())).await;
        assert_eq!(reply.wrong_fields(), ["body"], "{body}");
    }
    let bad_id = world.ann.send("POST", "/redirect-sessions/42/cancel", &[("x-request-id", "7")], None).await;
    assert_eq!(bad_id.wrong_fields(), ["x-request-id", "redirectSessionId"]);
    assert_eq!(world.ann.get("/redirect-sessions/42").await.wrong_fields(), ["redirectSessionId"]);
}

#[tokio::test]
async fn every_wrong_field_of_a_session_is_named_with_its_path() {
    let world = world().await;
    let wrong = json!({
        "type": "NewTransactionIntent", "customerId": "nobody", "locale": "german",
        "transactionData": { "currency": "euro", "amount": 0, "direction": "CustomerToMerchant", "type": "PassthroughDeposit" },
        "redirectData": { "successUrl": "/relative", "failureUrl": "https://shop.example/\n", "abortUrl": 1 },
    });
    assert_eq!(
        world.ann.put("/redirect-sessions/42", &wrong).await.wrong_fields(),
        [
            "redirectSessionId",
            "transactionData.currency",
            "transactionData.amount",
            "transactionData.direction",
            "customerId",
            "redirectData.successUrl",
            "redirectData.failureUrl",
            "redirectData.abortUrl",
            "redirectData.qrCodeSuccessUrl",
            "locale",
        ]
    );
}

#[tokio::test]
async fn what_was_opened_before_content_lay_apart_is_found_as_it_was() {
    let world = world().await;
    let id = world.ann.opened().await;
    let before = world.ann.get(&session(id)).await.json();
    let as_it_was = "alter table redirect_sessions add column content bytea, add column content_digest bytea, add column token bytea;
        update redirect_sessions s set content = c.content, content_digest = c.content_digest, token = c.token
        from redirect_session_contents c where c.partner_id = s.partner_id and c.id = s.id;
        drop table redirect_session_contents";
    for change in [as_it_was, include_str!("../../../migrations/0024_session_contents.sql")] {
        sqlx::raw_sql(change).execute(&world.database.pool).await.unwrap();
    }
    assert_eq!(world.ann.get(&session(id)).await.json(), before);
    assert_eq!(world.ann.put(&session(id), &new_customer()).await.json(), before, "the same content");
    assert_eq!(world.ann.cancel(id, &[]).await.status, 200);
}
