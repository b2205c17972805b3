//! The OpenAPI 3.1 document, printed from the table of routes and the schemas beside this file.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use byname_api::Code;
use serde_json::{Map, Value, json};

use crate::routes::{Answer, Body, Content, HeaderParam, Operation, Param, ParamKind, Route, Shape, every};

/// The schemas of what is declared, and of what operations take and give.
const SCHEMAS: [&str; 4] = [
    include_str!("schemas/objects.json"),
    include_str!("schemas/health.json"),
    include_str!("schemas/operations.json"),
    include_str!("schemas/identity.json"),
];

/// The document as text.
pub(crate) fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    &TEXT
}

/// Errors that every route may give: the gate's, the parameters', and trouble of the server's own.
const EVERYWHERE: [Code; 7] = [
    Code::InvalidArgument,
    Code::Denied,
    Code::Unauthenticated,
    Code::Timeout,
    Code::RateLimited,
    Code::Internal,
    Code::Unavailable,
];

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in every() {
        let path = paths.entry(route.path.template()).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(route.method.to_ascii_lowercase(), operation(route));
            if route.method == "GET" {
                // HEAD is answered as GET; it is named so that nobody takes it for a secret.
                methods.insert("head".into(), head(route));
            }
        }
    }
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Byname",
            "summary": "A name service that starts what a name stands for.",
            "description": "Errors are problem details (RFC 9457) with a stable `code`. Over TCP a session's bearer token says who calls (`/v1/login` gives one), and that of the server's data directory allows everything; without one, access control lists say what `anyone` may. The unix socket needs none.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
        },
    })
}

fn schemas() -> Value {
    let files = SCHEMAS.iter().filter_map(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    let mut schemas = Value::Object(files.flatten().collect());
    if let Some(codes) = schemas.pointer_mut("/Code/enum") {
        *codes = Code::ALL.iter().map(|c| c.as_str()).collect();
    }
    schemas
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "responses": responses(route),
    });
    let parameters = parameters(route);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    let body = |types: &[&str], schema: &str, required: bool| {
        let content: Map<String, Value> =
            types.iter().map(|t| ((*t).to_owned(), json!({"schema": reference(schema)}))).collect();
        json!({"required": required, "content": content})
    };
    match route.body {
        Body::None => {}
        Body::Optional(schema) => operation["requestBody"] = body(&["application/json"], schema, false),
        Body::Required(schema) => operation["requestBody"] = body(&["application/json"], schema, true),
        Body::MergePatch(schema) => {
            operation["requestBody"] = body(&["application/merge-patch+json", "application/json"], schema, true);
        }
    }
    if route.open {
        operation["security"] = json!([]);
    }
    operation
}

fn head(route: &Route) -> Value {
    let mut head = operation(route);
    head["operationId"] = format!("head-{}", operation_id(route)).into();
    head["summary"] = "The headers of the same GET.".into();
    if let Some(Value::Object(responses)) = head.get_mut("responses") {
        for response in responses.values_mut().filter_map(Value::as_object_mut) {
            response.remove("content");
        }
    }
    head
}

/// A name for generated clients.
fn operation_id(route: &Route) -> String {
    let root = matches!(route.path, Shape::Exact("/v1/names/" | "/v1/access/"));
    match route.operation {
        Operation::Act(verb) => verb.as_str().into(),
        Operation::ActMany(verb) => format!("{}-many", verb.as_str()),
        Operation::Read if root => "read-root".into(),
        Operation::Patch if root => "patch-root".into(),
        Operation::Access if root => "access-root".into(),
        Operation::Page(page) => format!("page-{page:?}").to_ascii_lowercase(),
        Operation::OpenApi => "openapi".into(),
        Operation::ErrorPage => "error".into(),
        other => format!("{other:?}").to_ascii_lowercase(),
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut all = Vec::new();
    match route.path {
        Shape::Exact(_) => {}
        Shape::Named(_) | Shape::Verb(_) => all.push(json!({
            "name": "path", "in": "path", "required": true,
            "description": "The name without its first slash.",
            "schema": reference("NamePath"),
        })),
        Shape::ErrorCode => all.push(json!({
            "name": "code", "in": "path", "required": true,
            "description": "The code.",
            "schema": reference("Code"),
        })),
    }
    all.extend(route.query.iter().map(query_parameter));
    all.extend(route.headers.iter().map(|h| header_parameter(*h)));
    all
}

fn query_parameter(param: &Param) -> Value {
    let schema = match param.kind {
        ParamKind::Bool(default) => json!({"type": "boolean", "default": default}),
        ParamKind::Count(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        ParamKind::Span => json!({"type": "string", "pattern": SPAN_PATTERN}),
        ParamKind::Instance => reference("InstanceId"),
        ParamKind::Time => reference("Timestamp"),
        ParamKind::Word(words) => json!({"type": "string", "enum": words}),
        ParamKind::Text if param.name == "pattern" => reference("Pattern"),
        ParamKind::Text => json!({"type": "string"}),
    };
    json!({"name": param.name, "in": "query", "description": param.doc, "schema": schema})
}

/// Lengths of time as a query writes them.
const SPAN_PATTERN: &str = "^[0-9]{1,8}(ms|s)?$|^[0-9]{1,6}m$|^[0-9]{1,4}h$";

fn header_parameter(header: HeaderParam) -> Value {
    let (name, doc, schema) = match header {
        HeaderParam::IfMatch => (
            "If-Match",
            "Only if the object has this version, as its ETag has it; `*`: only if it exists. A `conflict` otherwise.",
            json!({"type": "string", "pattern": IF_MATCH_PATTERN}),
        ),
        HeaderParam::IfNoneMatch => (
            "If-None-Match",
            "`*`: only if nothing has the name; `already-exists` otherwise.",
            json!({"type": "string", "enum": ["*"]}),
        ),
        HeaderParam::IdempotencyKey => (
            "Idempotency-Key",
            "Identifies this write: the same key within ten minutes is applied once and gets the same answer.",
            json!({"type": "string", "pattern": "^[!-~]{1,255}$"}),
        ),
        HeaderParam::LastEventId => (
            "Last-Event-ID",
            "The `id` of the last event that was seen: goes before `from` and `initial`. Browsers send it by themselves.",
            json!({"type": "string"}),
        ),
    };
    json!({"name": name, "in": "header", "description": doc, "schema": schema})
}

/// A version, bare or in quotes, or anything that exists.
const IF_MATCH_PATTERN: &str = r#"^(\*|v[0-9a-hjkmnp-tv-z]{1,12}|"v[0-9a-hjkmnp-tv-z]{1,12}")$"#;

fn responses(route: &Route) -> Value {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for answer in route.answers {
        all.insert(answer.status.to_string(), success(answer));
    }
    let mut problems: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    let everywhere: &[Code] = if route.open { &[Code::InvalidArgument, Code::Denied] } else { &EVERYWHERE };
    for code in everywhere.iter().chain(route.errors) {
        let codes = problems.entry(code.http_status()).or_default();
        if !codes.contains(&code.as_str()) {
            codes.push(code.as_str());
        }
    }
    if route.body != Body::None {
        problems.entry(Code::TooLarge.http_status()).or_default().push(Code::TooLarge.as_str());
        problems.entry(415).or_default().push(Code::InvalidArgument.as_str());
    }
    for (status, mut codes) in problems {
        codes.dedup();
        all.insert(status.to_string(), problem(&format!("`{}`", codes.join("`, `"))));
    }
    all.insert("default".into(), problem("Any other error."));
    json!(all)
}

fn success(answer: &Answer) -> Value {
    let content = match answer.content {
        Content::Json(schema) => json!({"application/json": {"schema": reference(schema)}}),
        Content::Events => json!({"text/event-stream": {"schema": {"type": "string"}}}),
        Content::Page(content_type) => json!({content_type: {"schema": {"type": "string"}}}),
        Content::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
    };
    let mut response = json!({"description": answer.doc, "content": content});
    for header in answer.headers {
        let doc = match *header {
            "ETag" => "The version, in quotes: for `If-Match`.",
            _ => "The path of the new object.",
        };
        response["headers"][*header] = json!({"description": doc, "schema": {"type": "string"}});
    }
    response
}

fn problem(description: &str) -> Value {
    json!({
        "description": description,
        "content": {"application/problem+json": {"schema": reference("Problem")}},
    })
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let mut wanted = BTreeSet::new();
        references(&document, &mut wanted);
        let defined: BTreeSet<String> =
            document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(wanted, defined);
    }

    fn references(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(to)) = map.get("$ref") {
                    into.insert(to.trim_start_matches("#/components/schemas/").to_owned());
                }
                map.values().for_each(|v| references(v, into));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, into)),
            _ => {}
        }
    }

    #[test]
    fn operations_are_told_apart() {
        let ids: BTreeSet<String> = every().map(operation_id).collect();
        assert_eq!(ids.len(), every().count());
        let rows: BTreeSet<(String, &str)> = every().map(|r| (r.path.template(), r.method)).collect();
        assert_eq!(rows.len(), every().count());
    }

    #[test]
    fn every_route_is_found_by_its_own_path() {
        for route in every() {
            let path = route.path.template().replace("{path}", "a/b%3Ac").replace("{code}", "not-found");
            match crate::routes::find(route.method, &path) {
                crate::routes::Found::Route(found, _) => assert!(std::ptr::eq(found, route), "{path}"),
                _ => panic!("{} {path} leads elsewhere", route.method),
            }
        }
    }
}
