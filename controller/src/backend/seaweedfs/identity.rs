//! The S3 keys of a volume: one identity of the volume's name, good for that bucket and nothing else.
//!
//! The keys are the caller's: setting them again is no change, setting others revokes the ones before, in one
//! write. The identity can read, write, list and tag; it cannot delete the bucket or change its policy.

use tonic::Status;

use super::{
    SeaweedFs,
    error::{CallError, Failure, IdentityError, Part},
    is_volume_name,
    wire::iam as pb,
};
use crate::backend::Credentials;

const ACTIONS: [&str; 4] = ["Read", "Write", "List", "Tagging"];

fn wanted(volume: &str, credentials: &Credentials) -> pb::Identity {
    pb::Identity {
        name: volume.to_owned(),
        credentials: vec![pb::Credential {
            access_key: credentials.access_key.clone(),
            secret_key: credentials.secret_key.clone(),
            status: "Active".to_owned(),
        }],
        actions: ACTIONS
            .iter()
            .map(|action| format!("{action}:{volume}"))
            .collect(),
        ..Default::default()
    }
}

/// Equal in everything that gives or takes a right.
fn grants_the_same(one: &pb::Identity, other: &pb::Identity) -> bool {
    one.credentials == other.credentials
        && one.actions == other.actions
        && one.disabled == other.disabled
        && one.policy_names == other.policy_names
        && one.service_account_ids == other.service_account_ids
}

fn failed(what: &'static str, status: &Status) -> CallError {
    CallError::from_status(Part::Filer, what, status)
}

impl SeaweedFs {
    /// Makes `credentials` the only keys for `volume`; other keys that it had stop working. In force at every
    /// running gateway when this returns.
    ///
    /// # Errors
    /// When the filer refuses or cannot be asked; the secret is not in the error.
    pub async fn ensure_identity(
        &self,
        volume: &str,
        credentials: &Credentials,
    ) -> Result<(), IdentityError> {
        const ROUNDS: u32 = 3;
        if !is_volume_name(volume) {
            return Err(IdentityError::Invalid(volume.to_owned()));
        }
        let clean = |error: CallError| IdentityError::Call(error.without(&credentials.secret_key));
        let identity = wanted(volume, credentials);
        for _ in 0..ROUNDS {
            if let Some(found) = self.identity(volume).await.map_err(clean)? {
                if grants_the_same(&found, &identity)
                    || self.update_identity(&identity).await.map_err(clean)?
                {
                    return Ok(());
                }
            } else if self.create_identity(&identity).await.map_err(clean)? {
                return Ok(());
            }
        }
        Err(IdentityError::Unstable(volume.to_owned()))
    }

    /// Removes the keys of `volume`; none are there: done.
    ///
    /// # Errors
    /// When the filer refuses or cannot be asked.
    pub async fn delete_identity(&self, volume: &str) -> Result<(), IdentityError> {
        if !is_volume_name(volume) {
            return Err(IdentityError::Invalid(volume.to_owned()));
        }
        let request = pb::DeleteUserRequest {
            username: volume.to_owned(),
        };
        match self.inner.iam.clone().delete_user(request).await {
            Ok(_) => Ok(()),
            Err(status) => match failed("delete the identity", &status) {
                error if error.failure == Failure::NotFound => Ok(()),
                error => Err(error.into()),
            },
        }
    }

    /// The access key that is good for `volume` now, if there is one.
    ///
    /// # Errors
    /// When the filer refuses or cannot be asked.
    pub async fn access_key(&self, volume: &str) -> Result<Option<String>, CallError> {
        let identity = self.identity(volume).await?;
        Ok(identity
            .and_then(|found| found.credentials.into_iter().next())
            .map(|key| key.access_key))
    }

    async fn identity(&self, volume: &str) -> Result<Option<pb::Identity>, CallError> {
        let request = pb::GetUserRequest {
            username: volume.to_owned(),
        };
        match self.inner.iam.clone().get_user(request).await {
            Ok(answer) => Ok(answer.into_inner().identity),
            Err(status) => match failed("look up the identity", &status) {
                error if error.failure == Failure::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    /// `false`: somebody made it in between.
    async fn create_identity(&self, identity: &pb::Identity) -> Result<bool, CallError> {
        let request = pb::CreateUserRequest {
            identity: Some(identity.clone()),
        };
        match self.inner.iam.clone().create_user(request).await {
            Ok(_) => Ok(true),
            Err(status) => match failed("create the identity", &status) {
                error if error.failure == Failure::Exists => Ok(false),
                error => Err(error),
            },
        }
    }

    /// `false`: somebody removed it in between.
    async fn update_identity(&self, identity: &pb::Identity) -> Result<bool, CallError> {
        let request = pb::UpdateUserRequest {
            username: identity.name.clone(),
            identity: Some(identity.clone()),
        };
        match self.inner.iam.clone().update_user(request).await {
            Ok(_) => Ok(true),
            Err(status) => match failed("change the identity", &status) {
                error if error.failure == Failure::NotFound => Ok(false),
                error => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(access: &str) -> Credentials {
        Credentials {
            access_key: access.into(),
            secret_key: "s".into(),
        }
    }

    #[test]
    fn an_identity_is_good_for_its_own_bucket_only() {
        let identity = wanted("uv-1", &keys("a"));
        assert_eq!(
            identity.actions,
            ["Read:uv-1", "Write:uv-1", "List:uv-1", "Tagging:uv-1"]
        );
        assert!(identity.policy_names.is_empty());
    }

    #[test]
    fn rights_that_others_added_are_a_difference() {
        let identity = wanted("uv-1", &keys("a"));
        assert!(grants_the_same(&identity, &identity.clone()));
        assert!(!grants_the_same(&identity, &wanted("uv-1", &keys("b"))));
        let mut more = identity.clone();
        more.policy_names.push("admin".into());
        assert!(!grants_the_same(&identity, &more));
    }
}
