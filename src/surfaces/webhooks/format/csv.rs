//! CSV: a header line and a line for each object of a list, or one for an object that stands alone. What is no plain value stands in its cell as
//! JSV does it. Lines end in CR LF.

use super::jsv;
use super::value::Value;

pub fn write(value: &Value) -> String {
    let alone = std::slice::from_ref(value);
    let rows = match value {
        Value::List(_, items) => items.as_slice(),
        _ => alone,
    };
    let mut columns: Vec<&str> = Vec::new();
    for (name, value) in rows.iter().flat_map(members) {
        if *value != Value::Null && !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut out = String::new();
    if columns.is_empty() {
        return out;
    }
    line(&mut out, columns.iter().map(|name| (*name).to_owned()));
    for row in rows {
        let cell = |column: &&str| {
            members(row)
                .iter()
                .find(|(name, _)| name == column)
                .map(|(_, value)| cell(value))
                .unwrap_or_default()
        };
        line(&mut out, columns.iter().map(cell));
    }
    out
}

fn members(value: &Value) -> &[(String, Value)] {
    match value {
        Value::Object(_, members) => members,
        _ => &[],
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => jsv::write(other),
    }
}

fn line(out: &mut String, cells: impl Iterator<Item = String>) {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            out.push(',');
        }
        if cell.contains([',', '"', '\r', '\n']) {
            out.push('"');
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&cell);
        }
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surfaces::webhooks::format::Contract;

    const ANY: Contract = Contract { name: "Any", namespace: "urn:any", is_alphabetical: false };

    #[test]
    fn a_list_is_a_table_with_jsv_in_its_cells() {
        let inner = Value::object(&ANY, [("x", Value::text("a,b")), ("y", Value::Bool(true))]);
        let first = Value::object(&ANY, [("id", Value::text("1")), ("inner", inner), ("no", Value::Null)]);
        let second = Value::object(&ANY, [("id", Value::text("say \"2\"")), ("more", Value::Number(3))]);
        assert_eq!(
            write(&Value::List(&ANY, vec![first.clone(), second])),
            "id,inner,more\r\n1,\"{x:\"\"a,b\"\",y:True}\",\r\n\"say \"\"2\"\"\",,3\r\n"
        );
        assert_eq!(write(&first), "id,inner\r\n1,\"{x:\"\"a,b\"\",y:True}\"\r\n");
        assert_eq!(write(&Value::List(&ANY, vec![])), "");
    }
}
