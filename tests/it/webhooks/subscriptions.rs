//! The eight operations, from a create to the deletion, at both mounts and by name.

use std::collections::BTreeSet;

use super::*;

#[tokio::test]
async fn a_subscription_lives_from_create_to_delete_at_either_mount() {
    let world = world().await;
    for mount in MOUNTS {
        let partner = world.app.another_partner().await;
        let body = json!({
            "name": "Orders", "events": ["order_sent", "order_paid"], "url": ANY_URL, "contentType": "application/json",
            "secret": SECRET, "accountId": "0123456789", "authSteuernummer": "AB123456789",
        });
        let made = post(&partner, &at(mount, "/create"), body).await;
        assert_eq!(made.status, 200, "{made:?}");
        let made = made.json();
        let first = &made[0]["subscription"];
        let (id, created, creator) = (text(&first["id"]), &first["createdDateUtc"], &first["createdById"]);
        let shown = |event: &str, id: &str| {
            json!({
                "subscription": {
                    "id": id, "name": "Orders", "event": event, "isActive": true, "createdDateUtc": created,
                    "createdById": creator, "lastModifiedDateUtc": created,
                    "config": { "url": ANY_URL, "contentType": "application/json" },
                },
                "history": [],
            })
        };
        let other = text(&made[1]["subscription"]["id"]);
        assert_eq!(made, json!([shown("order_sent", &id), shown("order_paid", &other)]), "in their order");
        let moments = "select count(distinct created_at) from subscriptions where state <> 'deleted'";
        assert_eq!(world.count(moments).await, 1, "one request's are of one moment");

        assert_eq!(get(&partner, &at(mount, &format!("/{id}"))).await.json(), shown("order_sent", &id));
        let braced = format!("/%7B{}%7D", id.replace('-', "").to_uppercase());
        assert_eq!(get(&partner, &at(mount, &braced)).await.json(), shown("order_sent", &id));
        let found = get(&partner, &at(mount, "/find?eventName=order_paid")).await;
        assert_eq!(found.json(), shown("order_paid", &other));
        let all = get(&partner, &at(mount, "")).await.json();
        let events = |all: &Value| -> BTreeSet<String> {
            all.as_array().unwrap().iter().map(|one| text(&one["subscription"]["event"])).collect()
        };
        assert_eq!(events(&all), BTreeSet::from(["order_paid".to_owned(), "order_sent".to_owned()]));
        assert_eq!(get(&partner, &at(mount, "?accountId=other")).await.json(), json!([]));
        assert_eq!(events(&get(&partner, &at(mount, "?AccountID=0123456789")).await.json()).len(), 2);
        let listed = post(&partner, &at(mount, "/list"), json!({ "ids": [other, NO_ID, id] })).await;
        assert_eq!(listed.json(), json!([shown("order_paid", &other), shown("order_sent", &id)]));

        let change = json!({ "currentSecret": SECRET, "name": "Renamed", "url": "http://127.0.0.1:9/other" });
        let changed = post(&partner, &at(mount, &format!("/{id}/update")), change).await.json();
        assert_eq!(changed["subscription"]["name"], "Renamed");
        assert_eq!(changed["subscription"]["config"]["url"], "http://127.0.0.1:9/other");
        assert_eq!(changed["subscription"]["event"], "order_sent");

        let gone = post(&partner, &at(mount, &format!("/{id}/delete")), json!({ "secret": SECRET })).await;
        assert_eq!(
            (gone.status, gone.json()["subscription"].clone()),
            (200, changed["subscription"].clone())
        );
        let batch = json!({ "subscriptions": [{ "id": other, "config": { "secret": SECRET } }] });
        let gone = post(&partner, &at(mount, "/delete"), batch).await;
        assert_eq!((gone.status, gone.json()), (200, json!([shown("order_paid", &other)])));
        for id in [&id, &other] {
            let missing = ("NotFound".to_owned(), "NotFound".to_owned());
            let (status, code, message) = get(&partner, &at(mount, &format!("/{id}"))).await.failure();
            assert_eq!((status, (code, message)), (404, missing));
        }
        assert_eq!(get(&partner, &at(mount, "")).await.json(), json!([]));
    }
}

#[tokio::test]
async fn every_operation_answers_to_its_name_with_and_without_async() {
    let world = world().await;
    let partner = &*world.app;
    for (prefix, suffix) in [("/api", ""), ("/json/reply", "Async"), ("/api", "Async"), ("/json/reply", "")] {
        let call = async |operation: &str, body: Value| {
            let reply = post(partner, &format!("{prefix}/{operation}{suffix}"), body).await;
            assert_eq!(reply.status, 200, "{operation}: {reply:?}");
            reply.json()
        };
        let wish = json!({ "events": ["by_name", "by_name_2"], "url": ANY_URL, "secret": SECRET });
        let made = call("CreateWebhookSubscriptions", wish).await;
        let (id, other) = (&made[0]["subscription"]["id"], &made[1]["subscription"]["id"]);
        assert_eq!(call("BatchGetWebhookSubscriptions", json!({})).await.as_array().unwrap().len(), 2);
        assert_eq!(call("FindWebhookSubscription", json!({ "eventName": "by_name" })).await, made[0]);
        assert_eq!(call("GetWebhookSubscription", json!({ "Id": id })).await, made[0]);
        assert_eq!(call("ListWebhookSubscriptions", json!({ "ids": [id] })).await, json!([made[0]]));
        let change = json!({ "id": id, "currentSecret": SECRET, "isActive": false });
        assert_eq!(call("UpdateWebhookSubscription", change).await["subscription"]["isActive"], json!(false));
        let query = |operation: &str, query: &str| format!("{prefix}/{operation}{suffix}?{query}");
        let by_get = get(partner, &query("FindWebhookSubscription", "eventName=by_name_2")).await;
        assert_eq!(by_get.json(), made[1], "a read may be a GET");
        let by_get = get(partner, &query("DeleteWebhookSubscription", "x=y")).await;
        assert_eq!((by_get.code(), by_get.header("allow")), (failed(405, "MethodNotAllowed"), "POST"));
        call("DeleteWebhookSubscription", json!({ "id": id, "secret": SECRET })).await;
        let batch = json!({ "subscriptions": [{ "id": other, "config": { "secret": SECRET } }] });
        call("BatchDeleteWebhookSubscriptions", batch).await;
        let unknown = post(partner, &format!("{prefix}/NoSuchOperation{suffix}"), json!({})).await;
        assert_eq!(unknown.code(), failed(404, "NotFound"));
    }
}

#[tokio::test]
async fn an_event_may_be_subscribed_to_once_in_an_account_and_a_create_is_all_or_none() {
    let world = world().await;
    let partner = &*world.app;
    let wish = |events: &[&str], account: Value| json!({ "events": events, "url": ANY_URL, "secret": SECRET, "accountId": account });
    let create =
        async |events: &[&str], account| post(partner, &at("/sync", "/create"), wish(events, account)).await;
    assert_eq!(create(&["order_paid"], json!("1")).await.status, 200);
    assert_eq!(create(&["order_paid"], json!("2")).await.status, 200, "another account");
    assert_eq!(create(&["order_paid"], Value::Null).await.status, 200, "no account");
    for account in [json!("1"), json!("2"), Value::Null] {
        let taken = create(&["order_sent", "order_paid", "order_lost"], account).await;
        let text = "The subscription for event order_paid already exists";
        assert_eq!(taken.failure(), (409, "Conflict".to_owned(), text.to_owned()));
    }
    let twice = create(&["order_sent", "order_sent"], Value::Null).await;
    assert_eq!(twice.code(), failed(409, "Conflict"));
    assert_eq!(
        get(partner, &at("/sync", "")).await.json().as_array().unwrap().len(),
        3,
        "none of the others was made"
    );
    assert_eq!(world.count("select count(*) from callbacks").await, 3);

    let id = subscribe_one(partner, ANY_URL, "order_sent").await;
    let taken = update(partner, &id, json!({ "event": "order_paid", "name": "Never" })).await;
    assert_eq!(taken.code(), failed(409, "Conflict"));
    let shown = get(partner, &at("/sync", &format!("/{id}"))).await.json();
    assert_eq!(
        (&shown["subscription"]["event"], shown["subscription"].get("name")),
        (&json!("order_sent"), None)
    );
    assert_eq!(delete(partner, &id, SECRET).await.status, 200);
    assert_eq!(create(&["order_sent"], Value::Null).await.status, 200, "what is deleted is free again");
}

#[tokio::test]
async fn of_creates_at_the_same_moment_one_wins_whatever_the_order_of_their_events() {
    let world = world().await;
    let partner = &*world.app;
    let orders: [&[&str]; 4] = [
        &["order_a", "order_b", "order_c"],
        &["order_c", "order_b", "order_a"],
        &["order_b", "order_a", "order_c"],
        &["order_c", "order_a", "order_b"],
    ];
    let create = |events: &'static [&'static str]| {
        let body = json!({ "events": events, "url": ANY_URL, "secret": SECRET });
        async move { post(partner, &at("/async", "/create"), body).await.status }
    };
    let mut statuses = futures_util::future::join_all(orders.into_iter().map(create)).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409]);
    assert_eq!(get(partner, &at("/sync", "")).await.json().as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn of_deletes_at_the_same_moment_one_wins_and_the_others_find_nothing() {
    let world = world().await;
    let partner = &*world.app;
    let id = subscribe_one(partner, ANY_URL, "order_paid").await;
    let deletes = (0..4).map(|_| delete(partner, &id, SECRET));
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(deletes).await.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404, 404, 404]);
}

#[tokio::test]
async fn an_update_and_a_delete_at_the_same_moment_take_turns() {
    let world = world().await;
    let partner = &*world.app;
    for round in 0..4 {
        let id = subscribe_one(partner, ANY_URL, &format!("order_{round}")).await;
        let change = json!({ "newSecret": NEW_SECRET });
        let (changed, deleted) = tokio::join!(update(partner, &id, change), delete(partner, &id, SECRET));
        // Either the delete came first and the update finds nothing, or it came second and its secret is the old one.
        match (changed.status, deleted.status) {
            (404, 200) => {}
            (200, 403) => assert_eq!(delete(partner, &id, NEW_SECRET).await.status, 200),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn only_who_knows_the_secret_may_change_or_delete() {
    let world = world().await;
    let partner = &*world.app;
    let ids = subscribe(partner, ANY_URL, &["order_paid", "order_sent"]).await;
    let before = get(partner, &at("/sync", "")).await.json();
    for wrong in ["canary", "canary00c2VjcmV", "canary00c2VjcmV0 ", "CANARY00c2VjcmV0"] {
        assert_eq!(delete(partner, &ids[0], wrong).await.code(), failed(403, "Forbidden"), "{wrong}");
        let change = json!({ "currentSecret": wrong, "isActive": false, "newSecret": NEW_SECRET });
        assert_eq!(update(partner, &ids[0], change).await.code(), failed(403, "Forbidden"), "{wrong}");
        let batch = json!({ "subscriptions": [
            { "id": ids[0], "config": { "secret": SECRET } }, { "id": ids[1], "config": { "secret": wrong } },
        ] });
        assert_eq!(post(partner, &at("/sync", "/delete"), batch).await.code(), failed(403, "Forbidden"));
    }
    let batch = json!({ "subscriptions": [
        { "id": ids[0], "config": { "secret": SECRET } }, { "id": NO_ID, "config": { "secret": SECRET } },
    ] });
    assert_eq!(post(partner, &at("/sync", "/delete"), batch).await.code(), failed(404, "NotFound"));
    for path in [format!("/{}/delete", ids[0]), "/create".to_owned()] {
        let refused = post(partner, &at("/sync", &path), json!({ "events": ["abcd"], "url": ANY_URL })).await;
        assert_eq!(refused.wrong_fields(), ["secret"]);
        assert_eq!(refused.failure().2, "The subscription Secret is invalid");
    }
    assert_eq!(get(partner, &at("/sync", "")).await.json(), before, "nothing has changed");
}

#[tokio::test]
async fn what_is_wrong_is_told_before_what_is_missing_and_that_before_the_secret() {
    let world = world().await;
    let partner = &*world.app;
    let id = subscribe_one(partner, ANY_URL, "order_paid").await;
    let (status, code, message) = get(partner, &at("/sync", "/nothing")).await.failure();
    assert_eq!(
        (status, code.as_str(), message.as_str()),
        (400, "BadRequest", "The subscription Id is invalid")
    );
    assert_eq!(delete(partner, "String", "").await.wrong_fields(), ["id", "secret"]);
    let bad = json!({ "currentSecret": "wrong", "url": "ftp://x", "isActive": "maybe" });
    assert_eq!(update(partner, NO_ID, bad).await.wrong_fields(), ["url", "isActive"]);
    assert_eq!(
        update(partner, NO_ID, json!({ "currentSecret": "wrong" })).await.code(),
        failed(404, "NotFound")
    );
    assert_eq!(
        update(partner, &id, json!({ "currentSecret": "wrong" })).await.code(),
        failed(403, "Forbidden")
    );
    let found = get(partner, &at("/sync", "/find")).await;
    assert_eq!(found.wrong_fields(), ["eventName"], "`find` is no id");
    assert_eq!(get(partner, &at("/sync", "/find?eventName=nobody")).await.code(), failed(404, "NotFound"));
}

#[tokio::test]
async fn rule_12_another_partner_finds_nothing_and_takes_nothing() {
    let world = world().await;
    let (ann, ben) = (&*world.app, world.app.another_partner().await);
    let id = subscribe_one(ann, ANY_URL, "order_paid").await;
    for path in [format!("/{id}"), "/find?eventName=order_paid".to_owned()] {
        assert_eq!(get(&ben, &at("/sync", &path)).await.code(), failed(404, "NotFound"), "{path}");
    }
    assert_eq!(get(&ben, &at("/sync", "")).await.json(), json!([]));
    assert_eq!(post(&ben, &at("/sync", "/list"), json!({ "ids": [id] })).await.json(), json!([]));
    assert_eq!(update(&ben, &id, json!({ "isActive": false })).await.code(), failed(404, "NotFound"));
    assert_eq!(delete(&ben, &id, SECRET).await.code(), failed(404, "NotFound"));
    let batch = json!({ "subscriptions": [{ "id": id, "config": { "secret": SECRET } }] });
    assert_eq!(post(&ben, &at("/sync", "/delete"), batch).await.code(), failed(404, "NotFound"));
    subscribe_one(&ben, ANY_URL, "order_paid").await;
    let shown = get(ann, &at("/sync", &format!("/{id}"))).await.json();
    assert_eq!(shown["subscription"]["isActive"], true);
}
