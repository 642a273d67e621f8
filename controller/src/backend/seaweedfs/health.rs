//! Whether each part of the cluster serves, as it was seen just now. Nothing is remembered.

use std::future::Future;

use super::{
    Endpoints, HEALTH, SeaweedFs,
    error::{CallError, Part},
    wire::master::GetMasterConfigurationRequest,
};

/// One part of the cluster, as it was seen just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartHealth {
    /// It answered.
    Serving,
    /// It did not, or it cannot do its work.
    Failing(String),
}

/// The cluster's parts, as they were seen just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The master: it knows its leader.
    pub master: PartHealth,
    /// The filer: it answers gRPC.
    pub filer: PartHealth,
    /// The S3 gateway: it answers HTTP. Without it no quota is enforced.
    pub s3: PartHealth,
}

impl Health {
    /// Whether every part serves.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        [&self.master, &self.filer, &self.s3]
            .into_iter()
            .all(|part| *part == PartHealth::Serving)
    }

    /// What does not serve, where it should, in words.
    #[must_use]
    pub fn faults(&self, endpoints: &Endpoints) -> Vec<String> {
        let parts = [
            (Part::Master, endpoints.master.to_string(), &self.master),
            (Part::Filer, endpoints.filer.to_string(), &self.filer),
            (Part::S3, endpoints.s3.clone(), &self.s3),
        ];
        let fault = |(part, at, health): (Part, String, &PartHealth)| match health {
            PartHealth::Serving => None,
            PartHealth::Failing(reason) => Some(format!("{part} at {at}: {reason}")),
        };
        parts.into_iter().filter_map(fault).collect()
    }
}

impl SeaweedFs {
    /// Asks every part at once; takes a few seconds at most.
    pub async fn health(&self) -> Health {
        let (master, filer, s3) =
            tokio::join!(self.master_health(), self.filer_health(), self.gateway_health());
        Health { master, filer, s3 }
    }

    /// Asks the filer alone, which has the keys too.
    pub async fn filer_health(&self) -> PartHealth {
        within(self.filer_answers()).await
    }

    async fn master_health(&self) -> PartHealth {
        let mut master = self.inner.master.clone();
        let asked = async move {
            match master
                .get_master_configuration(GetMasterConfigurationRequest {})
                .await
            {
                Ok(answer) if answer.get_ref().leader.is_empty() => Err("there is no leader".to_owned()),
                Ok(_) => Ok(()),
                Err(status) => Err(CallError::from_status(Part::Master, "answer", &status).words),
            }
        };
        within(asked).await
    }

    async fn gateway_health(&self) -> PartHealth {
        let url = format!("{}/healthz", self.endpoints().s3);
        let asked = async {
            match self.inner.http.get(url).send().await {
                // Its own answer has no body: a page is by something in between.
                Ok(answer) if answer.status().is_success() => match answer.bytes().await {
                    Ok(body) if body.is_empty() => Ok(()),
                    Ok(_) => Err("something else answers in its place".to_owned()),
                    Err(error) => Err(error.without_url().to_string()),
                },
                Ok(answer) => Err(format!("it answers {}", answer.status())),
                Err(error) => Err(error.without_url().to_string()),
            }
        };
        within(asked).await
    }
}

async fn within(asked: impl Future<Output = Result<(), String>>) -> PartHealth {
    match tokio::time::timeout(HEALTH, asked).await {
        Ok(Ok(())) => PartHealth::Serving,
        Ok(Err(reason)) => PartHealth::Failing(reason),
        Err(_) => PartHealth::Failing(format!("no answer within {} s", HEALTH.as_secs())),
    }
}
