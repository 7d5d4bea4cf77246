//! Subscriptions on the wire. What a body says is kept as it was said: whether it makes sense is told in the published order, which is the
//! domain's.

use std::collections::HashSet;

use serde::Serialize;

use super::super::SUBSCRIPTIONS;
use super::{BODY, Link, name, path_of};
use crate::domain::Violations;
use crate::domain::notification::{
    CAMPAIGN_CHARS_MAX, CAMPAIGNS_MAX, FILTERS_MAX, Filter, Name, STATUS_REASON_CHARS_MAX, Status, Wish,
};
use crate::store::notifications::Notification;
use crate::surfaces::kit::fields::{Fields, Nullable};

/// A POST. Its status would be ACTIVE whatever it said.
pub fn create(body: &[u8]) -> Result<(Name, Wish), Violations> {
    let mut fields = Fields::parse(body, BODY)?;
    let name = name(&mut fields);
    let wish = wish(&mut fields);
    match name {
        Some(name) if fields.violations.is_empty() => {
            Ok((name, Wish { status: None, status_reason: None, ..wish }))
        }
        _ => Err(fields.violations),
    }
}

/// A PUT, or the GET that is one.
pub fn update(body: &[u8]) -> Result<Wish, Violations> {
    let mut fields = Fields::parse(body, BODY)?;
    let mut wish = wish(&mut fields);
    wish.status = fields.optional("status", |text: Nullable<String>| Ok::<_, String>(text.0));
    wish.status_reason = fields.optional("statusReason", status_reason);
    if fields.violations.is_empty() { Ok(wish) } else { Err(fields.violations) }
}

/// What a POST and a PUT have in common. Of two names for one thing, the published page uses both.
fn wish(fields: &mut Fields<'_>) -> Wish {
    let callback = alias(fields, "callBackName", "callbackName");
    let callback = fields.optional(callback, |text: Nullable<String>| Ok::<_, String>(text.0)).flatten();
    let event_types = alias(fields, "eventTypes", "eventNames");
    let event_types = fields
        .optional(event_types, |list: Nullable<Vec<Nullable<String>>>| Ok::<_, String>(list.0))
        .flatten()
        .unwrap_or_default();
    Wish {
        // One that is not named is not found.
        callback: callback.unwrap_or_default(),
        event_types: event_types.into_iter().map(|name| name.0).collect(),
        filters: filters(fields),
        ..Wish::default()
    }
}

/// Whichever of the two names is there.
fn alias(fields: &mut Fields<'_>, name: &'static str, other: &'static str) -> &'static str {
    match (fields.has(name), fields.has(other)) {
        (true, true) => {
            fields.refuse(name, format!("is given twice, once as {other}"));
            name
        }
        (false, true) => other,
        _ => name,
    }
}

fn status_reason(text: Nullable<String>) -> Result<Option<String>, String> {
    match text.0 {
        Some(text) if text.chars().count() > STATUS_REASON_CHARS_MAX => {
            Err(format!("must be at most {STATUS_REASON_CHARS_MAX} characters long"))
        }
        text => Ok(text),
    }
}

/// Absent filters, and `null`, leave those that there are.
fn filters(fields: &mut Fields<'_>) -> Option<Vec<Filter>> {
    let is_null =
        fields.optional("filters", |raw: &serde_json::value::RawValue| Ok::<_, String>(raw.get() == "null"));
    if is_null != Some(false) {
        return None;
    }
    let filters = fields.objects("filters", FILTERS_MAX, |filter| {
        let event_types = filter.required("eventTypes", not_empty).map(each_once);
        if !filter.has("values") {
            filter.refuse("values", "is required");
        }
        // Each of them has a name at least.
        let campaign_names = filter
            .objects("values", CAMPAIGNS_MAX, |criterion| criterion.required("campaignNames", campaigns));
        if campaign_names.as_ref().is_some_and(Vec::is_empty) {
            filter.refuse("values", "must have at least one entry");
        }
        Some(Filter { event_types: event_types?, campaign_names: campaign_names? })
    })?;
    let campaigns: usize = filters.iter().flat_map(|filter| &filter.campaign_names).map(Vec::len).sum();
    if campaigns > CAMPAIGNS_MAX {
        fields.refuse("filters", format!("must have at most {CAMPAIGNS_MAX} campaign names in all"));
    }
    Some(filters)
}

fn not_empty(names: Vec<String>) -> Result<Vec<String>, &'static str> {
    if names.is_empty() { Err("must have at least one entry") } else { Ok(names) }
}

/// A type that is named again in the same filter says nothing more.
fn each_once(names: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    names.into_iter().filter(|name| seen.insert(name.clone())).collect()
}

fn campaigns(names: Vec<String>) -> Result<Vec<String>, String> {
    let fits = |name: &String| (1..=CAMPAIGN_CHARS_MAX).contains(&name.chars().count());
    let names = not_empty(names)?;
    if names.iter().all(fits) {
        Ok(names)
    } else {
        Err(format!("each entry must have 1 to {CAMPAIGN_CHARS_MAX} characters"))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionBody {
    subscription_name: String,
    call_back_url: String,
    call_back_name: String,
    batch_size: i32,
    event_types: Vec<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<String>,
    filters: Vec<FilterBody>,
}

impl From<Notification> for SubscriptionBody {
    fn from(one: Notification) -> Self {
        Self {
            subscription_name: one.name,
            call_back_url: one.callback.url,
            call_back_name: one.callback.name,
            batch_size: one.callback.batch_size,
            event_types: one.event_types,
            status: Status::of(one.state).as_str(),
            status_reason: one.state_reason,
            filters: one.filters.into_iter().map(FilterBody::from).collect(),
        }
    }
}

/// One of a list, with where to go from it.
#[derive(Serialize)]
pub struct Listed {
    #[serde(flatten)]
    subscription: SubscriptionBody,
    links: [Link; 5],
}

impl From<Notification> for Listed {
    fn from(one: Notification) -> Self {
        let path = path_of(SUBSCRIPTIONS, &one.name);
        let links = [
            Link::new("self", SUBSCRIPTIONS, "GET"),
            Link::new("createSubscription", SUBSCRIPTIONS, "POST"),
            Link::new("deleteSubscription", path.clone(), "DELETE"),
            Link::new("updateSubscription", path.clone(), "PUT"),
            Link::new("getSubscription", path, "GET"),
        ];
        Self { subscription: one.into(), links }
    }
}

/// One of a callback's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Brief {
    name: String,
    status: &'static str,
    event_types: Vec<String>,
    filters: Vec<FilterBody>,
}

impl From<Notification> for Brief {
    fn from(one: Notification) -> Self {
        Self {
            name: one.name,
            status: Status::of(one.state).as_str(),
            event_types: one.event_types,
            filters: one.filters.into_iter().map(FilterBody::from).collect(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FilterBody {
    event_types: Vec<String>,
    values: Vec<Criterion>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Criterion {
    campaign_names: Vec<String>,
}

impl From<Filter> for FilterBody {
    fn from(filter: Filter) -> Self {
        let criterion = |campaign_names| Criterion { campaign_names };
        Self {
            event_types: filter.event_types,
            values: filter.campaign_names.into_iter().map(criterion).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn complaints(body: Value) -> Vec<String> {
        update(body.to_string().as_bytes())
            .err()
            .map_or_else(Vec::new, |violations| violations.iter().map(|one| one.field.clone()).collect())
    }

    #[test]
    fn either_of_two_names_will_do_and_null_says_something() {
        let wish = update(br#"{"callbackName":"c","eventNames":["A",null],"status":null,"statusReason":null,"filters":null}"#);
        let wish = wish.unwrap();
        assert_eq!((wish.callback.as_str(), wish.event_types), ("c", vec![Some("A".to_owned()), None]));
        assert_eq!((wish.status, wish.status_reason), (Some(None), Some(None)));
        assert!(wish.filters.is_none());
        let wish = update(br#"{"callBackName":null,"eventTypes":null,"filters":[]}"#).unwrap();
        assert!(wish.callback.is_empty() && wish.event_types.is_empty() && wish.status.is_none());
        assert_eq!(wish.filters, Some(vec![]));
        assert_eq!(complaints(json!({ "callBackName": "c", "callbackName": "c" })), ["callBackName"]);
        let (_, wish) = create(br#"{"name":"n","status":"PAUSED","statusReason":"r"}"#).unwrap();
        assert_eq!((wish.status, wish.status_reason), (None, None), "a new one is active");
    }

    #[test]
    fn rule_15_values_of_the_wrong_shape_are_named_before_anything_is_looked_up() {
        let filter = |event_types: Value, values: Value| json!({ "filters": [{ "eventTypes": event_types, "values": values }] });
        let names = |names: Value| json!([{ "campaignNames": names }]);
        for (body, field) in [
            (json!({ "callBackName": 1 }), "callBackName"),
            (json!({ "eventTypes": "A,B" }), "eventTypes"),
            (json!({ "eventTypes": [1] }), "eventTypes"),
            (json!({ "status": 1 }), "status"),
            (json!({ "statusReason": "x".repeat(1_001) }), "statusReason"),
            (json!({ "filters": {} }), "filters"),
            (json!({ "filters": [1] }), "filters[0]"),
            (json!({ "filters": [{}] }), "filters[0].eventTypes"),
            (filter(json!([]), names(json!(["c"]))), "filters[0].eventTypes"),
            (filter(json!(["A"]), json!([])), "filters[0].values"),
            (filter(json!(["A"]), json!([{}])), "filters[0].values[0].campaignNames"),
            (filter(json!(["A"]), names(json!([]))), "filters[0].values[0].campaignNames"),
            (filter(json!(["A"]), names(json!([""]))), "filters[0].values[0].campaignNames"),
            (filter(json!(["A"]), names(json!(vec!["c"; 1_001]))), "filters"),
        ] {
            assert_eq!(complaints(body.clone()).first().map(String::as_str), Some(field), "{body}");
        }
        assert!(complaints(filter(json!(["A"]), names(json!(vec!["c"; 1_000])))).is_empty());
    }

    /// Without a bound that is looked at first, each of them would be read, and compared with all before it.
    #[test]
    fn rule_14_an_array_full_of_entries_is_refused_before_they_are_read() {
        let ones = format!("[1{}]", ",1".repeat(20_000));
        let values = format!(r#"[{{"eventTypes":["A"],"values":{ones}}}]"#);
        for (filters, field, message) in [
            (&ones, "filters", "must have at most 100 entries"),
            (&values, "filters[0].values", "must have at most 1000 entries"),
        ] {
            let refused = update(format!(r#"{{"filters":{filters}}}"#).as_bytes()).err().unwrap();
            let told: Vec<_> = refused.iter().map(|one| (one.field.as_str(), one.message.as_str())).collect();
            assert_eq!(told, [(field, message)]);
        }
        // Those that may be there are not all complained about.
        let values = format!(r#"{{"eventTypes":["A"],"values":[1{}]}}"#, ",1".repeat(CAMPAIGNS_MAX - 1));
        let filters = format!("[{values}{}]", format!(",{values}").repeat(FILTERS_MAX - 1));
        let refused = update(format!(r#"{{"filters":{filters}}}"#).as_bytes()).err().unwrap();
        assert_eq!(refused.iter().count(), 100);
        assert!(refused.has_more());
    }

    #[test]
    fn a_type_that_a_filter_names_again_is_kept_once() {
        assert_eq!(each_once(["B", "A", "B", "A", "A"].map(str::to_owned).to_vec()), ["B", "A"]);
    }
}
