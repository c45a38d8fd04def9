//! The description of the API, `resources/openapi.yaml`, and whether a reply is what it says.
//!
//! Understands as much of JSON Schema as that file uses, and refuses the rest.

use std::sync::OnceLock;

use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

use crate::api::Reply;

/// Requires that the description knows `method` and `path`, the status of `reply`, and a body like its own.
#[track_caller]
pub fn check(method: &str, path: &str, reply: &Reply) {
    let Some(operation) = operation(method, path) else {
        // What is not described may only be refused.
        assert_eq!(reply.status, 400, "{method} {path} is not described, and answers {reply:?}");
        return check_body("Error", &reply.body);
    };
    let responses = &operation["responses"];
    let response = &responses[reply.status.to_string().as_str()];
    assert!(!response.is_null(), "{method} {path}: {} is not described: {reply:?}", reply.status);
    let response = resolve(response);
    let kind = reply.header("Content-Type").and_then(|kind| kind.split(';').next());
    let content = &response["content"][kind.unwrap_or_default()];
    assert_eq!(
        content.is_null(),
        response["content"].is_null(),
        "{method} {path}: {kind:?} is not described"
    );
    let schema = &content["schema"];
    if schema.is_null() {
        assert_eq!(reply.body, Value::Null, "{method} {path}: a body that is not described");
    } else if let Err(why) = matches(schema, &reply.body) {
        panic!("{method} {path}: {why}\nreply: {reply:?}");
    }
}

/// Requires that a line of the event stream is described.
#[track_caller]
pub fn check_event(line: &Value) {
    check_body("Event", line);
}

/// Every method and path that is described.
#[must_use]
pub fn operations() -> Vec<(String, String)> {
    let paths = document()["paths"].as_object().unwrap();
    let of = |(path, methods): (&String, &Value)| {
        let methods: Vec<_> = methods.as_object().unwrap().keys().cloned().collect();
        let path = path.clone();
        methods.into_iter().map(move |method| (method.to_uppercase(), path.clone()))
    };
    paths.iter().flat_map(of).collect()
}

/// The schema of the body that a request is described with.
#[must_use]
pub fn request_schema(method: &str, path: &str) -> Option<&'static Value> {
    let schema = &operation(method, path)?["requestBody"]["content"]["application/json"]["schema"];
    (!schema.is_null()).then(|| resolve(schema))
}

#[track_caller]
fn check_body(schema: &str, body: &Value) {
    if let Err(why) = matches(&document()["components"]["schemas"][schema], body) {
        panic!("{why}\nbody: {body}");
    }
}

fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let paths = document()["paths"].as_object().unwrap();
    let is_like = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(a, b)| a == b || a.starts_with('{') && !b.is_empty())
    };
    // A path without a variable goes before one with.
    let found = paths.get(path).or_else(|| paths.iter().find(|it| is_like(it.0)).map(|it| it.1))?;
    found.get(method.to_lowercase())
}

fn matches(schema: &'static Value, value: &Value) -> Result<(), String> {
    let schema = resolve(schema);
    let rules = schema.as_object().ok_or("a schema is an object")?;
    if value.is_null() && rules.get("nullable") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    for (rule, by) in rules {
        let is_kept = match rule.as_str() {
            "type" => has_type(by.as_str().unwrap(), value),
            "enum" => by.as_array().unwrap().contains(value),
            "minimum" => value.as_u64() >= by.as_u64(),
            "maximum" => value.as_u64() <= by.as_u64(),
            "required" => {
                by.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some())
            }
            "properties" => {
                check_properties(by.as_object().unwrap(), value)?;
                true
            }
            "additionalProperties" if by == &Value::Bool(false) => {
                let known = rules["properties"].as_object().unwrap();
                value.as_object().is_none_or(|it| it.keys().all(|key| known.contains_key(key)))
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    matches(by, item)?;
                }
                true
            }
            "description" | "nullable" | "default" | "example" => true,
            other => return Err(format!("the rule {other:?} is not understood")),
        };
        if !is_kept {
            return Err(format!("{value} breaks {rule}: {by}"));
        }
    }
    Ok(())
}

fn check_properties(properties: &'static Map<String, Value>, value: &Value) -> Result<(), String> {
    for (key, schema) in properties {
        if let Some(inner) = value.get(key) {
            matches(schema, inner).map_err(|why| format!("{key}: {why}"))?;
        }
    }
    Ok(())
}

fn has_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("the type {other:?} is not understood"),
    }
}

/// What `value` refers to, if it is a reference.
pub(crate) fn resolve(value: &'static Value) -> &'static Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(place) => document().pointer(&place[1..]).unwrap_or_else(|| panic!("{place}")),
        None => value,
    }
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let text = include_str!("../../resources/openapi.yaml");
        to_json(&YamlLoader::load_from_str(text).unwrap()[0])
    })
}

fn to_json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => Value::String(text.clone()),
        Yaml::Integer(number) => Value::from(*number),
        Yaml::Boolean(value) => Value::Bool(*value),
        Yaml::Array(items) => items.iter().map(to_json).collect(),
        Yaml::Hash(pairs) => {
            let key = |key: &Yaml| match to_json(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(pairs.iter().map(|(k, value)| (key(k), to_json(value))).collect())
        }
        Yaml::Null => Value::Null,
        other => panic!("not understood: {other:?}"),
    }
}
