//! Ways past signatures for the fuzz targets: what is read of a certificate once its chain holds.

use rustls_pki_types::CertificateDer;

use crate::authority::read_unsigned;

/// Reads a certificate as the verifier does after it has checked the chain, as a leaf and as an authority.
pub fn certificate(der: &[u8]) {
    read_unsigned(&CertificateDer::from(der), "corp.example");
}
