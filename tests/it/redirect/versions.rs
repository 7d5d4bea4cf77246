//! Optimistic versions: `If-Match`, and races without it.

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::*;

#[tokio::test]
async fn a_change_goes_ahead_only_against_the_version_that_it_names() {
    let world = world().await;
    let (id, new_key) = (world.ann.subscribed().await, json!({ "apiKey": "canary" }));
    let path = subscription(id);
    assert_eq!(world.ann.patch(&path, &[], &new_key).await.header("etag"), "\"2\"");
    for stale in ["\"1\"", "W/\"2\"", "\"3\", \"4\"", "2", "\"2", "", "\"02\"", "x"] {
        for (method, body) in
            [("PATCH", Some(&new_key)), ("PUT", Some(&wish("https://partner.example/v"))), ("DELETE", None)]
        {
            let refused = world.ann.send(method, &path, &[("if-match", stale)], body).await;
            assert_eq!(refused.failure(), failed(409, "EntityVersionMismatch"), "{method} {stale:?}");
        }
    }
    for (good, version) in
        [("\"2\"", "\"3\""), ("*", "\"4\""), ("\"1\", \"4\"", "\"5\""), ("W/\"9\",\"5\"", "\"6\"")]
    {
        let changed = world.ann.patch(&path, &[("if-match", good)], &new_key).await;
        assert_eq!((changed.status, changed.header("etag")), (200, version), "{good}");
    }
    assert_eq!(world.ann.send("DELETE", &path, &[("if-match", "\"6\"")], None).await.status, 200);
}

#[tokio::test]
async fn what_was_read_of_a_deleted_subscription_is_no_version_of_its_successor() {
    let world = world().await;
    let (path, again) = (subscription(Uuid::new_v4()), wish("https://partner.example/again"));
    let version = |reply: &Reply| reply.header("etag").trim_matches('"').parse::<i64>().unwrap();
    let mut seen = vec![version(&world.ann.put(&path, &again).await)];
    assert_eq!(seen, [1], "the first one begins at the beginning");
    for _ in 0..3 {
        seen.push(version(&world.ann.patch(&path, &[], &json!({ "apiKey": "canary" })).await));
        assert_eq!(world.ann.delete(&path).await.status, 200);
        let made = world.ann.put(&path, &again).await;
        assert_eq!(made.status, 201);
        for old in &seen {
            let condition = format!("\"{old}\"");
            let headers = [("if-match", condition.as_str())];
            let change = world.ann.patch(&path, &headers, &json!({ "apiKey": "canary" })).await;
            assert_eq!(change.failure(), failed(409, "EntityVersionMismatch"), "{old}");
            let deletion = world.ann.send("DELETE", &path, &headers, None).await;
            assert_eq!(deletion.failure(), failed(409, "EntityVersionMismatch"), "{old}");
        }
        assert!(seen.iter().all(|old| *old < version(&made)), "{seen:?}");
        seen.push(version(&made));
    }
    let other = world.ann.put(&subscription(Uuid::new_v4()), &wish("https://partner.example/other")).await;
    assert_eq!(version(&other), 1);
}

#[tokio::test]
async fn a_condition_on_what_does_not_exist_fails_for_a_put_and_a_patch_says_what_is_missing() {
    let world = world().await;
    for condition in ["*", "\"1\""] {
        let headers = [("if-match", condition)];
        let path = subscription(Uuid::new_v4());
        let put = world.ann.send("PUT", &path, &headers, Some(&wish("https://partner.example/c"))).await;
        assert_eq!(put.failure(), failed(409, "EntityVersionMismatch"));
        let patch = world.ann.patch(&path, &headers, &json!({ "apiKey": "k" })).await;
        assert_eq!(patch.failure(), failed(404, "SubscriptionNotFound"), "existence before version");
        let session_put =
            world.ann.send("PUT", &session(Uuid::new_v4()), &headers, Some(&new_customer())).await;
        assert_eq!(session_put.failure(), failed(409, "EntityVersionMismatch"));
    }
}

#[tokio::test]
async fn a_session_is_cancelled_only_at_the_version_that_is_named() {
    let world = world().await;
    let id = world.ann.opened().await;
    for stale in ["\"2\"", "W/\"1\""] {
        let refused = world.ann.cancel(id, &[("if-match", stale)]).await;
        assert_eq!(refused.failure(), failed(409, "EntityVersionMismatch"), "{stale}");
    }
    assert_eq!(world.ann.cancel(id, &[("if-match", "\"1\"")]).await.status, 200);
    let late = world.ann.cancel(id, &[("if-match", "\"1\"")]).await;
    assert_eq!(late.failure(), failed(409, "EntityVersionMismatch"), "version before state");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_updates_that_read_the_same_version_exactly_one_is_made() {
    let world = world().await;
    let id = world.ann.subscribed().await;
    // Holding the row lets both updates read it, and neither write it, until it is let go.
    let mut holder = world.database.pool.begin().await.unwrap();
    sqlx::query("select from subscriptions for update").execute(&mut *holder).await.unwrap();
    let update = |url: &'static str| {
        let ann = world.ann.clone();
        tokio::spawn(async move { ann.patch(&subscription(id), &[], &json!({ "callbackUrl": url })).await })
    };
    let updates = [update("https://partner.example/left"), update("https://partner.example/right")];
    world.database.until_waiting(2).await;
    holder.rollback().await.unwrap();

    let replies = join_all(updates).await.into_iter().map(Result::unwrap);
    let (won, lost): (Vec<_>, Vec<_>) = replies.partition(|reply| reply.status == 200);
    assert_eq!((won.len(), lost.len()), (1, 1));
    assert_eq!(lost[0].failure(), failed(409, "EntityVersionMismatch"));
    let now = world.ann.get(&subscription(id)).await;
    assert_eq!((now.header("etag"), now.json()), ("\"2\"", won[0].json()));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_is_ever_lost() {
    let world = world().await;
    let id = world.ann.subscribed().await;
    let replies = join_all((0..20).map(|_| {
        let ann = &world.ann;
        async move { ann.patch(&subscription(id), &[], &json!({ "apiKey": "canary" })).await }
    }))
    .await;
    let mut made: Vec<_> =
        replies.iter().filter(|reply| reply.status == 200).map(|reply| reply.header("etag")).collect();
    for lost in replies.iter().filter(|reply| reply.status != 200) {
        assert_eq!(lost.failure(), failed(409, "EntityVersionMismatch"));
    }
    let count = made.len();
    assert!(count >= 1);
    made.sort();
    made.dedup();
    assert_eq!(made.len(), count, "each made a version of its own");
    assert_eq!(world.ann.get(&subscription(id)).await.header("etag"), format!("\"{}\"", count + 1));
}
