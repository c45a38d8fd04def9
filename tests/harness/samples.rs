//! Bodies of requests, made up from the description of the API: as it wants them, and spoilt in one place.
//!
//! What a sample says need not make sense to the machine; only that its form is right, or is not, is certain.

use serde_json::{Map, Value, json};

use crate::openapi::resolve;
use crate::random::Random;

/// Texts for every occasion. Paths among them are relative, so that what is made stays in the directory of the test.
const TEXTS: [&str; 12] = [
    "",
    "a",
    "disk",
    "missing",
    "not/there",
    "drive0",
    "0",
    "true",
    "06:00:00:00:00:01",
    "\u{1f980} \u{0} \" \\ \r\n",
    "/dev/null",
    "{}",
];
/// Most elements of a list.
const MOST_ITEMS: u64 = 3;

/// A value as `schema` wants it.
pub fn right(schema: &'static Value, random: &mut Random) -> Value {
    let schema = resolve(schema);
    if schema["nullable"] == true && random.below(8) == 0 {
        return Value::Null;
    }
    if let Some(choices) = schema["enum"].as_array() {
        return one_of(choices, random).clone();
    }
    match schema["type"].as_str() {
        Some("object") => right_object(schema, random),
        Some("array") => {
            let count = random.below(MOST_ITEMS + 1);
            (0..count).map(|_| right(&schema["items"], random)).collect()
        }
        Some("string") => json!(text(random)),
        Some("boolean") => json!(random.below(2) == 0),
        Some("integer") => {
            let least = schema["minimum"].as_u64().unwrap_or(0);
            let most = schema["maximum"].as_u64().unwrap_or(i64::MAX.unsigned_abs());
            let number = random.next_u64();
            // Small ones are more likely to mean something.
            json!(*one_of(&[least, most, (number % 300).clamp(least, most)], random))
        }
        // Anything goes.
        _ => json!({"anything": [1, null, {"x": text(random)}]}),
    }
}

fn right_object(schema: &'static Value, random: &mut Random) -> Value {
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let mut object = Map::new();
    for (key, inner) in properties(schema) {
        if required.iter().any(|it| it == key) || random.below(2) == 0 {
            object.insert(key.clone(), right(inner, random));
        }
    }
    Value::Object(object)
}

/// A value that `schema` wants in everything but one: what was spoilt, for messages, and the value. `None` when the
/// schema leaves nothing to spoil.
pub fn wrong(schema: &'static Value, random: &mut Random) -> Option<(String, Value)> {
    let schema = resolve(schema);
    let value = right(schema, random);
    let mut spoilt = Vec::new();
    if let Some(object) = value.as_object() {
        let without = |key: &str| {
            let mut rest = object.clone();
            rest.remove(key);
            (format!("{key} is missing"), Value::Object(rest))
        };
        let required = schema["required"].as_array().into_iter().flatten();
        spoilt.extend(required.map(|key| without(key.as_str().unwrap())));
        let mut with = |what: &str, key: &str, inner: Value| {
            let mut more = object.clone();
            more.insert(key.to_owned(), inner);
            spoilt.push((format!("{key} {what}"), Value::Object(more)));
        };
        if schema["additionalProperties"] == false {
            with("is unknown", "no_such_key", json!(1));
        }
        for (key, inner) in properties(schema) {
            if let Some((what, inner)) = wrong(inner, random) {
                with(&format!("is wrong: {what}"), key, inner);
            }
        }
    }
    spoilt.extend(other_values(schema).into_iter().map(|it| (format!("{it} instead"), it)));
    let index = random.below(spoilt.len().max(1) as u64) as usize;
    (index < spoilt.len()).then(|| spoilt.swap_remove(index))
}

/// Values that `schema` does not allow in this place.
fn other_values(schema: &'static Value) -> Vec<Value> {
    let mut others = Vec::new();
    if !schema["enum"].is_null() {
        others.push(json!("no such choice"));
    }
    if let Some(least) = schema["minimum"].as_u64().filter(|least| *least > 0) {
        others.push(json!(least - 1));
    }
    if let Some(most) = schema["maximum"].as_u64().filter(|most| *most < u64::MAX) {
        others.push(json!(most + 1));
    }
    let kinds = [
        ("object", json!({"x": 1})),
        ("array", json!([[]])),
        ("string", json!("x")),
        ("boolean", json!(true)),
        ("integer", json!(7)),
        ("integer", json!(-1)),
        ("number", json!(1.5)),
    ];
    if let Some(kind) = schema["type"].as_str() {
        let of_another = kinds.into_iter().filter(|(other, _)| *other != kind);
        others.extend(of_another.map(|(_, value)| value));
    }
    others
}

/// A text that a schema says nothing about.
pub fn text(random: &mut Random) -> String {
    if random.below(20) == 0 { "x".repeat(300) } else { (*one_of(&TEXTS, random)).to_owned() }
}

/// Any element of `list`, which must not be empty.
pub fn one_of<'a, T>(list: &'a [T], random: &mut Random) -> &'a T {
    &list[random.below(list.len() as u64) as usize]
}

fn properties(schema: &'static Value) -> impl Iterator<Item = (&'static String, &'static Value)> {
    schema["properties"].as_object().into_iter().flatten()
}
