//! Tests of tokens for names: good ones, and bad ones signed like good ones.

use super::*;

const NOW: Timestamp = Timestamp(1_000_000_000_000);
const LIFE: Duration = Duration::from_secs(300);

fn name() -> Name {
    Name::parse("/BVODS/QS").unwrap()
}

fn roots() -> Roots {
    crate::authority::Authority::create("corp.example", NOW).unwrap().roots().clone()
}

fn keys(key: &JwtKey) -> JwtKeys {
    JwtKeys::from_bundle("corp.example", &key.bundle(&roots())).unwrap()
}

fn token(key: &JwtKey) -> String {
    key.sign("corp.example", &name(), Some(ObjectId(7)), &["a".into(), "b".into()], LIFE, NOW).unwrap()
}

/// A token with other parts, signed like ours.
fn forged(key: &JwtKey, header: Value, claims: Value) -> String {
    let signed = format!("{}.{}", coded(&header), coded(&claims));
    let signature = key.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn a_token_proves_a_name_to_its_audience() {
    let key = JwtKey::generate().unwrap();
    let key = JwtKey::from_pkcs8(key.to_pkcs8()).unwrap();
    let peer = keys(&key).verify(&token(&key), "b", NOW).unwrap();
    assert_eq!(peer, JwtPeer { name: name(), id: Some(ObjectId(7)), expires: Timestamp(NOW.0 + 300_000) });
    let long = key.sign("corp.example", &name(), None, &["a".into()], LIFE * 10_000, NOW).unwrap();
    assert_eq!(keys(&key).verify(&long, "a", NOW).unwrap().expires, Timestamp(NOW.0 + 86_400_000));
    for audience in [vec![], vec![String::new()], vec!["a".to_owned(); 17]] {
        assert!(key.sign("corp.example", &name(), None, &audience, LIFE, NOW).is_err());
    }
    assert!(key.sign("corp.example", &Name::root(), None, &["a".into()], LIFE, NOW).is_err());
    assert!(JwtKey::from_pkcs8(b"x").is_err());
}

#[test]
fn every_bad_token_is_refused_for_its_reason() {
    let key = JwtKey::generate().unwrap();
    let other = JwtKey::generate().unwrap();
    let (keys, good) = (keys(&key), token(&key));
    let header = json!({"alg": "ES256", "kid": key.id()});
    let claims = json!({"sub": "spiffe://corp.example/a", "aud": "a", "exp": 2_000_000_000});
    assert!(keys.verify(&forged(&key, header.clone(), claims.clone()), "a", NOW).is_ok(), "as others write it");
    let with = |base: &Value, field: &str, value: Value| {
        let mut changed = base.clone();
        changed[field] = value;
        changed
    };
    let head = |field: &str, value: Value| forged(&key, with(&header, field, value), claims.clone());
    let claim = |field: &str, value: Value| forged(&key, header.clone(), with(&claims, field, value));
    let (front, back) = good.rsplit_once('.').unwrap();
    for (token, says) in [
        (head("alg", json!("none")), "ES256"),
        (head("alg", json!("HS256")), "ES256"),
        (head("typ", json!("at+jwt")), "another type"),
        (head("crit", json!(["x"])), "another type"),
        (head("kid", json!(other.id())), "not signed by a key of corp.example"),
        (head("kid", Value::Null), "not signed by a key"),
        (forged(&other, header.clone(), claims.clone()), "signature is wrong"),
        (format!("{front}x.{back}"), "signature is wrong"),
        (format!("{front}."), "signature is wrong"),
        (good.replacen('.', "..", 1), "signature is wrong"),
        (String::new(), "no JWT"),
        ("a.b.c".to_owned(), "no JWT"),
        ("x".repeat(10_000), "too long"),
        (claim("exp", json!(999_999_999)), "expired on"),
        (claim("exp", json!(1_000_000_000)), "expired on"),
        (claim("exp", json!(-1)), "expired on"),
        (claim("exp", Value::Null), "not those of a JWT-SVID"),
        (claim("exp", json!("2000000000")), "not those of a JWT-SVID"),
        (claim("iat", json!(1_000_000_301)), "not yet valid"),
        (claim("nbf", json!(1_000_000_301)), "not yet valid"),
        (claim("aud", json!("b")), "another audience"),
        (claim("aud", json!([])), "another audience"),
        (claim("aud", json!(["b", "aa"])), "another audience"),
        (claim("sub", json!("spiffe://other.example/a")), "another trust domain"),
        (claim("sub", json!("spiffe://corp.example")), "whole trust domain"),
        (claim("sub", json!("ada")), "begins with"),
        (claim("byname_id", json!("x")), "none of an object"),
    ] {
        let error = keys.verify(&token, "a", NOW).unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated);
        assert!(error.message().contains(says), "{says}: {error}");
    }
}

#[test]
fn the_bundle_is_that_of_spiffe() {
    let (key, roots) = (JwtKey::generate().unwrap(), roots());
    let bundle: Value = serde_json::from_str(&key.bundle(&roots)).unwrap();
    let keys = bundle["keys"].as_array().unwrap();
    assert_eq!((&keys[0]["use"], &keys[1]["use"]), (&json!("x509-svid"), &json!("jwt-svid")));
    let der = STANDARD.decode(keys[0]["x5c"][0].as_str().unwrap()).unwrap();
    assert_eq!(digest(&SHA256, &der).as_ref(), roots.fingerprints().next().unwrap());
    assert_eq!(keys[1]["kid"], key.id());
    for text in ["", "{}", "[]", "{\"keys\": 1}"] {
        assert!(JwtKeys::from_bundle("corp.example", text).is_err());
    }
    let strange = r#"{"keys": [{"use": "jwt-svid", "kty": "EC", "crv": "P-256", "kid": "k", "x": "AA", "y": "AA"}]}"#;
    assert!(JwtKeys::from_bundle("corp.example", strange).unwrap().keys.is_empty());
}

#[test]
fn a_thumbprint_is_that_of_the_standard() {
    // RFC 7517 appendix A.1 has the key; its thumbprint was computed by another program.
    let x = URL_SAFE_NO_PAD.decode("MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4").unwrap();
    let y = URL_SAFE_NO_PAD.decode("4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM").unwrap();
    assert_eq!(thumbprint(&[vec![4], x, y].concat()), "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s");
}
