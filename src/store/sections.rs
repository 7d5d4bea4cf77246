//! Statements of which not all is always needed. Their sections stand between a line `--{ name` and a line `--}`, and a statement is used with
//! those that are named: what is left out is neither planned nor touched. A section may have others inside.

/// A statement with these of its sections and no other.
pub(super) fn with(sql: &str, sections: &[&str]) -> String {
    let mut inside = Vec::new();
    let mut chosen = String::with_capacity(sql.len());
    for line in sql.lines() {
        if let Some(name) = line.strip_prefix("--{ ") {
            inside.push(sections.contains(&name));
        } else if line == "--}" {
            inside.pop();
        } else if inside.iter().all(|named| *named) {
            chosen.push_str(line);
            chosen.push('\n');
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_that_are_not_named_are_left_out() {
        let sql = "-- why\nselect\n--{ one\n1,\n--}\n--{ two\n2,\n--}\n3\n";
        assert_eq!(with(sql, &["one"]), "-- why\nselect\n1,\n3\n");
        assert_eq!(with(sql, &["two", "one"]), "-- why\nselect\n1,\n2,\n3\n");
        assert_eq!(with(sql, &[]), "-- why\nselect\n3\n");
        let nested = "1\n--{ outer\n2\n--{ inner\n3\n--}\n4\n--}\n5\n";
        assert_eq!(with(nested, &["outer", "inner"]), "1\n2\n3\n4\n5\n");
        assert_eq!(with(nested, &["outer"]), "1\n2\n4\n5\n");
        assert_eq!(with(nested, &["inner"]), "1\n5\n");
    }
}
