//! What any OpenAPI document should be able to say of itself: references that lead somewhere, operations that are
//! complete, examples that are true.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::openapi::document::{Document, Operation, elements, members};

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    let document = Document::load();
    let mut unused = document.components();
    for (pointer, value) in document.walk() {
        let Some(reference) = value.get("$ref").and_then(Value::as_str) else { continue };
        assert!(document.follow(reference).is_some(), "{pointer} refers to {reference}, which is not there");
        unused.remove(reference.trim_start_matches('#'));
    }
    assert!(unused.is_empty(), "nothing refers to {unused:?}");
}

#[test]
fn a_name_that_is_there_twice_is_refused() {
    let twice = "components:\n  schemas:\n    Uuid: { type: string }\n    Uuid: { type: integer }\n";
    let refusal = Document::parse(twice).err().expect("a mapping with a key twice is no document");
    assert!(refusal.contains("duplicate"), "{refusal}");
}

#[test]
fn every_operation_is_named_described_and_tagged() {
    let document = Document::load();
    let tags: BTreeSet<&str> =
        elements(&document.root()["tags"]).filter_map(|tag| tag["name"].as_str()).collect();
    for (operation, object) in operations_with_callbacks(document) {
        let text = |member: &str| object[member].as_str().is_some_and(|text| !text.trim().is_empty());
        assert!(
            text("operationId") && text("summary") && text("description"),
            "{operation:?} lacks its words"
        );
        let own: Vec<&str> = elements(&object["tags"]).filter_map(Value::as_str).collect();
        assert!(
            own.len() == 1 && tags.contains(own[0]),
            "{operation:?} has tags {own:?}, declared are {tags:?}"
        );
    }
    let ids = document.operation_ids();
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len(), "an operationId is there twice: {ids:?}");
    assert!(document.operations().len() >= 20 && document.callbacks().len() == 3);
}

#[test]
fn every_parameter_of_a_path_is_declared_and_no_other() {
    let document = Document::load();
    for operation in document.operations() {
        let item = operation.pointer.rsplit_once('/').expect("an operation stands in a path item").0;
        let declared: BTreeSet<&str> = [item, &operation.pointer]
            .into_iter()
            .flat_map(|holder| elements(&document.at(holder).expect("the pointer is its own")["parameters"]))
            .map(|parameter| document.resolve(parameter))
            .filter(|parameter| parameter["in"] == "path")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        let templated: BTreeSet<&str> =
            operation.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(declared, templated, "{operation:?}");
    }
}

#[test]
fn every_operation_has_a_success_and_the_errors_that_any_request_can_meet() {
    let document = Document::load();
    for operation in document.operations() {
        let object = document.at(&operation.pointer).expect("the pointer is its own");
        let statuses: BTreeSet<&str> =
            members(&object["responses"]).map(|(status, _)| status.as_str()).collect();
        assert!(statuses.iter().any(|status| status.starts_with('2')), "{operation:?} cannot succeed");
        let mut expected = vec!["405"];
        if object["security"] != serde_json::json!([]) {
            expected.extend(["401", "404", "408", "429", "500", "503"]);
        }
        if object.get("requestBody").is_some() {
            expected.extend(["400", "413", "415"]);
        }
        for status in expected {
            assert!(statuses.contains(status), "{operation:?} does not document {status}, only {statuses:?}");
        }
    }
}

#[test]
fn every_body_that_is_documented_has_an_example() {
    let document = Document::load();
    for (pointer, value) in document.walk() {
        if !pointer.ends_with("/content") {
            continue;
        }
        for (media_type, content) in members(value) {
            assert!(!document.examples(content).is_empty(), "{pointer} has no example of {media_type}");
        }
    }
}

#[test]
fn every_example_is_valid_by_the_schema_beside_it() {
    let document = Document::load();
    let mut judged = 0;
    for (pointer, value) in document.walk() {
        if value.get("schema").is_none() {
            continue;
        }
        for (name, example) in document.examples(value) {
            judged += 1;
            if let Err(errors) = document.validate(&format!("{pointer}/schema"), example) {
                panic!("example {name} at {pointer}: {errors}");
            }
        }
    }
    assert!(judged > 100, "only {judged} examples were found, so this test has lost its way");
}

#[test]
fn every_link_leads_to_an_operation_and_names_its_parameters() {
    let document = Document::load();
    for (name, link) in members(&document.root()["components"]["links"]) {
        let target = document
            .operations()
            .into_iter()
            .find(|operation| {
                document.at(&operation.pointer).is_some_and(|it| it["operationId"] == link["operationId"])
            })
            .unwrap_or_else(|| panic!("link {name} leads nowhere"));
        for (parameter, _) in members(&link["parameters"]) {
            assert!(
                target.path.contains(&format!("{{{parameter}}}")),
                "link {name}: {parameter} is not in {target:?}"
            );
        }
    }
}

fn operations_with_callbacks(document: &Document) -> Vec<(Operation, &Value)> {
    let operations = document.operations().into_iter().chain(document.callbacks());
    operations
        .map(|operation| {
            let object = document.at(&operation.pointer).expect("the pointer is its own");
            (operation, object)
        })
        .collect()
}
