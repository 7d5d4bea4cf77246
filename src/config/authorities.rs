//! The file of authorities that callbacks' certificates may be signed by beside the usual ones: the one file that the configuration opens, so
//! that what is wrong with it is told together with everything else.

use std::path::Path;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};

use super::read::{Reader, present};

const SETTING: &str = "HERALD_EGRESS_CA_FILE";

pub(super) fn authorities(raw: Option<&str>, r: &mut Reader) -> Vec<CertificateDer<'static>> {
    let Some(file) = present(raw).map(Path::new) else { return Vec::new() };
    read(file).unwrap_or_else(|wrong| {
        let wrong = format!("is {}, {wrong}", file.display().to_string().escape_debug());
        r.problem(SETTING, wrong, "a file of authorities' certificates, X.509 in PEM, one after the other");
        Vec::new()
    })
}

/// Errors: what is wrong with the file.
fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| match error {
        pem::Error::Io(error) => format!("which cannot be read: {error}"),
        error => format!("which is not PEM: {error}"),
    })?;
    if certificates.is_empty() {
        return Err("in which there is no certificate in PEM".to_owned());
    }
    let mut store = RootCertStore::empty();
    for (place, certificate) in certificates.iter().enumerate() {
        let added = store.add(certificate.clone());
        added.map_err(|error| format!("whose certificate {} cannot be trusted: {error}", place + 1))?;
    }
    Ok(certificates)
}
