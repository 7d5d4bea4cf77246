//! JSON as this dialect writes it: no white space, null members left out, dates as `"\/Date(1548935999000)\/"`.

use super::value::{Value, append};

pub fn write(value: &Value) -> String {
    let mut out = String::new();
    append(&mut out, value, append_leaf, append_text);
    out
}

fn append_leaf(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Text(text) => append_text(out, text),
        Value::Date(moment) => out.push_str(&format!("\"\\/Date({})\\/\"", moment.timestamp_millis())),
        // No leaf: `append` writes it.
        Value::List(..) | Value::Object(..) => {}
    }
}

fn append_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a text can always be written as JSON"));
}
