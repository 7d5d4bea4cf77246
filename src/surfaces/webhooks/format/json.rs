//! JSON as this dialect writes it: no white space, null members left out, dates as `"\/Date(1548935999000)\/"`.

use super::value::Value;

pub fn write(value: &Value) -> String {
    let mut out = String::new();
    append(&mut out, value);
    out
}

fn append(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Text(text) => append_text(out, text),
        Value::Date(moment) => out.push_str(&format!("\"\\/Date({})\\/\"", moment.timestamp_millis())),
        Value::List(_, items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                append(out, item);
            }
            out.push(']');
        }
        Value::Object(_, members) => {
            out.push('{');
            let mut first = true;
            for (name, member) in members.iter().filter(|(_, member)| *member != Value::Null) {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                append_text(out, name);
                out.push(':');
                append(out, member);
            }
            out.push('}');
        }
    }
}

fn append_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a text can always be written as JSON"));
}
