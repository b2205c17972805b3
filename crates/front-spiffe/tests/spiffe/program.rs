//! The program: it asks for all that there is and writes down what it got.

use futures_util::StreamExt;
use spiffe::WorkloadApiClient;

pub(crate) async fn client() {
    let client = WorkloadApiClient::connect_env().await.unwrap();
    let svid = client.fetch_x509_svid().await.unwrap();
    println!("svid {} chain {}", svid.spiffe_id(), svid.cert_chain().len());
    let own = svid.spiffe_id().trust_domain().clone();
    let bundles = client.fetch_x509_bundles().await.unwrap();
    println!("bundles {own} {}", bundles.get(&own).unwrap().authorities().len());

    let token = client.fetch_jwt_svid(["printer"], None).await.unwrap();
    println!("token {} for {}", token.spiffe_id(), token.audience().join(" "));
    let keys = client.fetch_jwt_bundles().await.unwrap();
    println!("keys {}", keys.get(&own).unwrap().trust_domain());
    println!("valid {}", client.validate_jwt_token("printer", token.token()).await.unwrap().spiffe_id());
    match client.validate_jwt_token("scanner", token.token()).await {
        Err(error) if error.is_invalid_argument() => println!("invalid InvalidArgument"),
        other => println!("invalid {other:?}"),
    }
    println!("end");

    let mut svids = client.stream_x509_svids().await.unwrap();
    let mut last = None;
    while let Some(Ok(svid)) = svids.next().await {
        let leaf: String = svid.leaf().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        println!("leaf {leaf}");
        if last.replace(leaf).is_some() {
            println!("renewed");
        }
    }
}
