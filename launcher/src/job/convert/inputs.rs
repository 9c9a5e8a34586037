//! The files that the user named to be read, open.
#![forbid(unsafe_code)]

use super::Meant;
use crate::disk::lock::Claim;
use crate::gate::Refusal;
use crate::job::failure::{Failure, NamedError, NamedFailure};
use crate::job::name::ImageName;
use crate::job::open::{self, FileId, Opened, path_of};
use crate::render::image_file::{full_backing_name, protocol_of};
use instar_abi::request::NeedKind;

/// The files that the user named, open.
pub(super) struct Inputs {
    pub sources: Vec<Opened>,
    pub backing: Option<Opened>,
    /// What is claimed of whatever lies below them.
    pub claim: Claim,
}

impl Inputs {
    pub fn open(meant: &Meant) -> Result<Self, Failure> {
        let shared = meant.sources.iter().all(|name| name.shared);
        let claim = if shared { Claim::NONE } else { Claim::READ };
        let source = |name: &ImageName| {
            let claim = if name.shared { Claim::NONE } else { Claim::READ };
            open::source(path_of(&name.path), claim).map_err(|error| Failure::Open {
                typed: name.typed.clone(),
                path: name.path.clone(),
                error,
            })
        };
        let sources = meant.sources.iter().map(source).collect::<Result<_, _>>()?;
        let backing = meant.backing.as_ref().map(|backing| {
            let path = full_backing_name(&meant.target_path, &backing.name).unwrap_or_default();
            // The image would say it to others, who speak it.
            let opened = match protocol_of(&backing.name) {
                Some(_) => Err(Refusal::Protocol),
                None => open::source(path_of(&path), claim).map_err(Refusal::from),
            };
            opened.map_err(|refusal| {
                Failure::Named(Box::new(NamedFailure {
                    top: meant.target.clone(),
                    depth: 0,
                    kind: NeedKind::Backing,
                    name: backing.name.clone(),
                    path: path_of(&path).to_owned(),
                    error: NamedError::Refused(refusal),
                }))
            })
        });
        Ok(Self { sources, backing: backing.transpose()?, claim })
    }

    pub fn ids(&self) -> Vec<FileId> {
        self.sources.iter().chain(&self.backing).map(|opened| opened.id).collect()
    }
}
