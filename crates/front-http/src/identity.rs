//! Who is who: one function for each operation, as in `operations`. The requests and replies are those of the
//! vocabulary; every answer is `no-store`, also those without a secret.

use axum::response::Response;
use byname_api::access::{AccessRequest, Subject};
use byname_api::audit::{AuditRequest, DEFAULT_LIMIT, Outcome};
use byname_api::caller::Right;
use byname_api::{Error, Result};
use serde::Serialize;

use crate::body;
use crate::operations::{Call, json};

/// What is answered when there is nothing to say.
#[derive(Serialize)]
struct Done {}

impl Call<'_> {
    pub(crate) async fn login(self) -> Result<Response> {
        Ok(json(&self.service.login(&self.cx, body::json(&self.body)?).await?))
    }

    pub(crate) async fn logout(self) -> Result<Response> {
        let request = self.optional_body()?;
        self.service.logout(&self.cx, request).await?;
        Ok(json(&Done {}))
    }

    pub(crate) async fn whoami(self) -> Result<Response> {
        Ok(json(&self.service.whoami(&self.cx).await?))
    }

    pub(crate) async fn enrol(self) -> Result<Response> {
        Ok(json(&self.service.enrol(&self.cx, body::json(&self.body)?).await?))
    }

    pub(crate) async fn certify(self) -> Result<Response> {
        Ok(json(&self.service.certify(&self.cx, body::json(&self.body)?).await?))
    }

    pub(crate) async fn trust(self) -> Result<Response> {
        Ok(json(&self.service.trust(&self.cx).await?))
    }

    pub(crate) async fn introduce(self) -> Result<Response> {
        Ok(json(&self.service.introduce(&self.cx, body::json(&self.body)?).await?))
    }

    pub(crate) async fn verify(self) -> Result<Response> {
        Ok(json(&self.service.verify(&self.cx, body::json(&self.body)?).await?))
    }

    pub(crate) async fn invite(self) -> Result<Response> {
        Ok(json(&self.service.invite(&self.cx, body::json(&self.body)?).await?))
    }

    pub(crate) async fn join(self) -> Result<Response> {
        Ok(json(&self.service.join(&self.cx, body::json(&self.body)?).await?))
    }

    pub(crate) async fn revoke(self) -> Result<Response> {
        self.service.revoke(&self.cx, body::json(&self.body)?).await?;
        Ok(json(&Done {}))
    }

    pub(crate) async fn access(self) -> Result<Response> {
        let who = self.query.text("who").map(|text| text.parse::<Subject>()).transpose()?;
        let right = self.query.text("right").map(|text| text.parse::<Right>()).transpose();
        let right = right.map_err(|error| error.field("right"))?;
        let request = AccessRequest { name: self.name, who, right };
        Ok(json(&self.service.access(&self.cx, request).await?))
    }

    pub(crate) async fn audit(self) -> Result<Response> {
        let outcome = match self.query.text("outcome") {
            Some(text) => {
                Some(Outcome::parse(&text).ok_or_else(|| Error::invalid("outcome", "is no outcome of an operation"))?)
            }
            None => None,
        };
        let request = AuditRequest {
            by: self.query.text("by"),
            name: self.query.text("name"),
            operation: self.query.text("operation"),
            outcome,
            since: self.query.time("since"),
            until: self.query.time("until"),
            limit: self.query.count("limit").unwrap_or(DEFAULT_LIMIT),
            next: self.query.text("next"),
            verify: self.query.bool("verify", false),
        };
        Ok(json(&self.service.audit(&self.cx, request).await?))
    }
}
