//! Every operation, asked by one partner with whatever ids and names another one has: in the path, in the query and in the body. Nothing of
//! the other shows, and nothing of the other changes. So that this means something, the owner is given what the stranger was refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use herald::domain::id::{CustomerId, PartnerId};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::ask::{Ask, Parameter, asks};
use crate::support::desk::{Answer, Desk, Listener};

/// In everything that the owner has, and in nothing that the stranger asks with.
const CANARY: &str = "canary-of-the-owner";
/// The owner's test event waits for an engine that the desk does not have.
const OWNER_WITHIN: Duration = Duration::from_millis(700);
const WITHIN: Duration = Duration::from_secs(20);

/// Makes whatever can be made: every operation of the API with its own example, in the owner's words.
async fn furnish(desk: &Desk, owner: PartnerId, key: &str) {
    for ask in asks() {
        for customer in ask.texts().iter().filter(|place| place.ends_with("/customerId")) {
            let example: Value = serde_json::from_str(&ask.body().unwrap().1).unwrap();
            let id = example.pointer(customer).unwrap().as_str().unwrap().parse().unwrap();
            let _made_before = desk.hub.create_customer(owner, CustomerId(id)).await;
        }
    }
    desk.cancel_a_session(key).await;
    desk.open_session(key).await;
    // Twice, for what needs something that is made later in the document.
    for _ in 0..2 {
        for ask in asks().into_iter().filter(|ask| ask.listener == Listener::Api && ask.needs_key) {
            if ["POST", "PUT"].contains(&ask.method.as_str()) {
                let body = ask.body_with(|example| in_the_owners_words(example, ""));
                desk.request(ask.listener, &ask.method, key, &ask.path(), body, OWNER_WITHIN).await;
            }
        }
    }
    desk.subscribe(key).await;
    desk.cancel_a_session(key).await;
    desk.deliver().await;
    desk.cancel_a_session(key).await;
}

/// Every host, and every name that the owner chooses, says whose it is. Secrets stay as they are in the examples, which know of no change.
fn in_the_owners_words(value: &Value, name: &str) -> Value {
    match value {
        Value::String(text) if text.contains("://") => {
            let (scheme, rest) = text.split_once("://").unwrap();
            Value::String(format!("{scheme}://127.0.0.1:9/{CANARY}/{rest}"))
        }
        Value::String(text) if name.ends_with("externalReference") => {
            Value::String(format!("{CANARY}{text}"))
        }
        // Names are each partner's own, so that the same name of two partners would prove nothing.
        Value::String(text) if ["name", "callBackName", "callbackName"].contains(&name) => {
            Value::String(format!("Owners_{text}"))
        }
        Value::Array(items) => items.iter().map(|item| in_the_owners_words(item, name)).collect(),
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "newSecret")
            .map(|(name, field)| (name.clone(), in_the_owners_words(field, name)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

/// Everything by which something of the owner's could be named.
async fn names(desk: &Desk, owner: uuid::Uuid) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (table, column) in columns(desk, "c.data_type in ('uuid', 'text')").await {
        let of_owner: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "select distinct {column}::text from {table} where partner_id = $1 and {column} is not null limit 20"
        )))
        .bind(owner)
        .fetch_all(&desk.database.pool)
        .await
        .unwrap();
        let telling = ["id", "name", "key"].iter().any(|end| column.ends_with(end)) && column != "partner_id";
        names.extend(of_owner.into_iter().filter(|_| telling));
    }
    names
}

/// Columns of the tables that say whose their rows are.
async fn columns(desk: &Desk, of_type: &str) -> Vec<(String, String)> {
    sqlx::query_as(AssertSqlSafe(format!(
        "select c.table_name::text, c.column_name::text from information_schema.columns c
         join pg_class t on t.relname = c.table_name and t.relnamespace = 'public'::regnamespace
         where c.table_schema = 'public' and not t.relispartition and {of_type}
           and exists (select from information_schema.columns p
               where p.table_name = c.table_name and p.table_schema = 'public' and p.column_name = 'partner_id')
         order by 1, 2"
    )))
    .fetch_all(&desk.database.pool)
    .await
    .unwrap()
}

/// Every row of the owner's, by table.
async fn belongings(desk: &Desk, owner: uuid::Uuid) -> BTreeMap<String, String> {
    let tables: BTreeSet<String> =
        columns(desk, "c.column_name = 'partner_id'").await.into_iter().map(|(table, _)| table).collect();
    let mut all = BTreeMap::new();
    for table in tables {
        let rows: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "select string_agg(t::text, e'\\n' order by t::text) from {table} t where partner_id = $1"
        )))
        .bind(owner)
        .fetch_one(&desk.database.pool)
        .await
        .unwrap();
        all.insert(table, rows.unwrap_or_default());
    }
    all
}

/// Every path of an operation that names something of the owner's: the same name for all parameters that are not confined to choices.
fn paths(ask: &Ask, names: &BTreeSet<String>) -> Vec<String> {
    if ask.parameters.is_empty() {
        return Vec::new();
    }
    let choices: Vec<&Parameter> = ask.parameters.iter().filter(|one| !one.choices.is_empty()).collect();
    assert!(choices.len() <= 1, "{ask}: this test gives one parameter its choices");
    let chosen: Vec<String> =
        choices.first().map_or_else(|| vec![String::new()], |parameter| parameter.choices.clone());
    let mut paths = Vec::new();
    for name in names {
        for choice in &chosen {
            paths.push(
                ask.path_with(|one| if one.choices.is_empty() { name.clone() } else { choice.clone() }),
            );
        }
    }
    paths
}

fn assert_nothing_shows(ask: &Ask, how: &str, answer: &Answer) {
    let shown = format!("{:?} {}", answer.headers, answer.text);
    assert!(!shown.contains(CANARY), "{ask} {how}: {shown}");
    assert!(answer.status < 500, "{ask} {how}: {} {}", answer.status, answer.text);
}

#[tokio::test]
async fn rule_12_no_operation_shows_or_changes_anything_of_another_partner() {
    let desk = Desk::open().await;
    let (owner, owners_key) = desk.partner("partner").await;
    let (_, strangers_key) = desk.partner("partner").await;
    furnish(&desk, owner, &owners_key).await;
    let names = names(&desk, owner.0).await;
    assert!(names.len() > 10, "{names:?}");
    let before = belongings(&desk, owner.0).await;
    assert!(before["callbacks"].contains(CANARY), "the owner has something to hide");

    let api: Vec<Ask> =
        asks().into_iter().filter(|ask| ask.listener == Listener::Api && ask.needs_key).collect();
    let mut asked = BTreeSet::new();
    // In bodies and queries a few of each kind will do: uuids, names, other ids.
    let (uuids, others): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| name.parse::<uuid::Uuid>().is_ok());
    let few: Vec<&String> =
        uuids.iter().step_by(1 + uuids.len() / 8).chain(others.iter().take(6)).copied().collect();
    // First with nothing of the owner's: lists, too, are of the stranger's own things, of which there are none yet.
    let mut lists = 0;
    for ask in api.iter().filter(|ask| ask.parameters.is_empty() && ask.body().is_none()) {
        let answer = stranger(&desk, &strangers_key, ask, &ask.path(), None).await;
        assert_nothing_shows(ask, "plainly", &answer);
        let shown = uuids.iter().find(|name| answer.text.contains(name.as_str()));
        assert!(shown.is_none(), "{ask} shows {shown:?}: {}", answer.text);
        lists += usize::from(answer.status == 200);
    }
    assert!(lists >= 6, "{lists} operations list something");
    // The mounts of an operation differ in their paths alone: the first of them is given all names, the others a few.
    let few_names: BTreeSet<String> = few.iter().map(|name| (*name).clone()).collect();
    let mut first = BTreeMap::new();
    for ask in &api {
        first.entry(ask.operation.clone()).or_insert_with(|| ask.template.clone());
    }
    let names_for = |ask: &Ask| if first[&ask.operation] == ask.template { &names } else { &few_names };
    let mut refused: BTreeMap<(String, String), u16> = BTreeMap::new();
    for ask in &api {
        for path in paths(ask, names_for(ask)) {
            let answer = stranger(&desk, &strangers_key, ask, &path, ask.body()).await;
            assert_nothing_shows(ask, &path, &answer);
            refused.insert((ask.method.clone(), path), answer.status);
        }
    }
    // Afterwards, since a stranger may well make something of its own under a name that it read nowhere.
    for ask in &api {
        if !asked.insert(ask.operation.clone()) {
            continue;
        }
        for parameter in &ask.query {
            for name in &few {
                for value in [(*name).clone(), format!("redirect/{name}")] {
                    let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
                    let path = format!("{}?{parameter}={value}", ask.path());
                    let answer = stranger(&desk, &strangers_key, ask, &path, ask.body()).await;
                    assert_nothing_shows(ask, &path, &answer);
                }
            }
        }
        for place in ask.texts() {
            for name in &few {
                let body = ask.body_with(|example| {
                    let mut changed = example.clone();
                    *changed.pointer_mut(&place).unwrap() = Value::String((*name).clone());
                    changed
                });
                let how = format!("{place} = {name}");
                assert_nothing_shows(
                    ask,
                    &how,
                    &stranger(&desk, &strangers_key, ask, &ask.path(), body).await,
                );
            }
        }
    }
    let after = belongings(&desk, owner.0).await;
    for (table, rows) in &before {
        assert_eq!(rows, &after[table], "{table} was changed by somebody else");
    }

    // Deleting comes last, or nothing would be left to be given.
    let deletes = |ask: &Ask| ask.method == "DELETE" || ask.template.ends_with("elete");
    let (last, mut in_order): (Vec<Ask>, Vec<Ask>) = api.into_iter().partition(deletes);
    // And what was made later is deleted first, since it may stand on what was made before.
    in_order.extend(last.into_iter().rev());
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    for ask in in_order.iter().filter(|ask| !ask.parameters.is_empty()) {
        let given = given.entry(ask.operation.clone()).or_default();
        for path in paths(ask, names_for(ask)) {
            let body = ask.body_with(|example| in_the_owners_words(example, ""));
            let answer =
                desk.request(ask.listener, &ask.method, &owners_key, &path, body, OWNER_WITHIN).await;
            // No answer in time: the request was taken, and waits for a delivery.
            if answer.is_none_or(|answer| answer.status < 300) {
                *given += 1;
                // A path that is only a choice names nothing of anybody's; what a stranger was shown there was looked at above.
                let names_something = ask.parameters.iter().any(|parameter| parameter.choices.is_empty());
                let strangers = refused[&(ask.method.clone(), path.clone())];
                assert!(
                    !names_something || (400..500).contains(&strangers),
                    "{} {path}: {strangers} for a stranger",
                    ask.method
                );
            }
        }
    }
    let nothing: Vec<&String> =
        given.iter().filter(|(_, given)| **given == 0).map(|(operation, _)| operation).collect();
    // Verifying calls the callback, and here is nobody to be called.
    let nothing: Vec<&String> =
        nothing.into_iter().filter(|operation| !operation.ends_with("actions~1verify/get")).collect();
    assert!(nothing.is_empty(), "these give their owner nothing either, are they asked rightly? {nothing:?}");
}

async fn stranger(desk: &Desk, key: &str, ask: &Ask, path: &str, body: Option<(&str, String)>) -> Answer {
    let answer = desk.request(ask.listener, &ask.method, key, path, body, WITHIN).await;
    answer.unwrap_or_else(|| panic!("{ask} as {path}: a stranger was kept waiting"))
}
