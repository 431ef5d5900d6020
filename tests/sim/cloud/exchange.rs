//! A request's way to the cloud and back, and what happens to it there.

use std::time::Duration;

use http::{HeaderName, StatusCode, header};
use rand::Rng;

use super::answer::{Refusal, http_date};
use super::call::{Call, Service};
use super::{Ask, Carried, Cloud, Exchange, Reply};

impl Cloud {
    /// Carries a request to the cloud and what comes of it back. All that the request does, it
    /// does at `now`, however long the answer takes; a late one is done by [`Cloud::advance`].
    pub fn carry(&mut self, now: u64, ask: &Ask) -> Carried {
        self.advance(now);
        let call = Call::of(&self.base, ask);
        *self.asked.entry(call.name()).or_default() += 1;
        let kinds = Exchange::ALL.iter().copied();
        let possible: Vec<Exchange> = kinds
            .filter(|k| self.can_hit(*k, &call, ask, now))
            .collect();
        let carried = match self.draw(possible.into_iter(), 1.0) {
            None => {
                let reply = self.serve(now, ask, &call);
                let reply = self.tell_lie(now, &call, ask, reply);
                self.arrives(reply)
            }
            Some(kind) => self.hit(kind, now, ask, &call),
        };
        self.note(now);
        carried
    }

    /// Does what is asked, as a cloud in good health would.
    pub(super) fn serve(&mut self, now: u64, ask: &Ask, call: &Call) -> Reply {
        match call {
            Call::IdentityVersions => return self.identity_versions(),
            Call::IdentityVersion => return self.identity_version(),
            Call::LogIn => return self.log_in(now, ask),
            Call::ComputeVersions => return self.compute_versions(),
            Call::ComputeVersion => return self.compute_version(),
            Call::Flavors
            | Call::Limits
            | Call::ListServers
            | Call::CreateServer
            | Call::ShowServer(_)
            | Call::DeleteServer(_)
            | Call::ListKeypairs
            | Call::CreateKeypair
            | Call::ShowKeypair(_)
            | Call::DeleteKeypair(_)
            | Call::ListImages
            | Call::ShowImage(_)
            | Call::Unknown => {}
        }
        let Some(user) = self.user_of(ask.token.as_deref(), now) else {
            return Reply::unauthorized();
        };
        self.serve_user(now, user, ask, call)
            .unwrap_or_else(|refusal| refusal.reply(call.service()))
    }

    fn serve_user(
        &mut self,
        now: u64,
        user: String,
        ask: &Ask,
        call: &Call,
    ) -> Result<Reply, Refusal> {
        match call {
            Call::Flavors => Ok(self.flavors()),
            Call::Limits => Ok(self.limits()),
            Call::ListServers => self.list_servers(now, &ask.url),
            Call::CreateServer => self.create_server(now, user, ask),
            Call::ShowServer(id) => self.show_server(now, id),
            Call::DeleteServer(id) => self.delete_server(now, user, id),
            Call::ListKeypairs => Ok(self.list_keypairs()),
            Call::CreateKeypair => self.create_keypair(ask),
            Call::ShowKeypair(name) => self.show_keypair(name),
            Call::DeleteKeypair(name) => self.delete_keypair(name),
            Call::ListImages => Ok(self.list_images(ask)),
            Call::ShowImage(id) => Ok(self.show_image(id)),
            Call::IdentityVersions
            | Call::IdentityVersion
            | Call::LogIn
            | Call::ComputeVersions
            | Call::ComputeVersion
            | Call::Unknown => Err(Refusal::NotFound(
                "The resource could not be found.".to_owned(),
            )),
        }
    }

    /// Whether this kind of fault can happen to such a request.
    fn can_hit(&self, kind: Exchange, call: &Call, ask: &Ask, now: u64) -> bool {
        let changes = call.changes_servers();
        match kind {
            Exchange::TimedOutLate | Exchange::Twice => changes,
            Exchange::Conflict => changes || *call == Call::CreateKeypair,
            Exchange::QuotaExceeded => *call == Call::CreateServer,
            Exchange::TokenRevoked => self.user_of(ask.token.as_deref(), now).is_some(),
            Exchange::NotFound => call.names_one(),
            // These have no body to spoil.
            Exchange::TruncatedBody | Exchange::MalformedBody => {
                !matches!(call, Call::DeleteServer(_) | Call::DeleteKeypair(_))
            }
            Exchange::ConnectionRefused
            | Exchange::LostBefore
            | Exchange::LostAfter
            | Exchange::TimedOutBefore
            | Exchange::TimedOutAfter
            | Exchange::Slow
            | Exchange::Forbidden
            | Exchange::OverLimit
            | Exchange::TooManyRequests
            | Exchange::TooManyRequestsDate
            | Exchange::InternalError
            | Exchange::InternalErrorAfter
            | Exchange::BadGateway
            | Exchange::BadGatewayHtml
            | Exchange::Unavailable
            | Exchange::UnavailableRetry
            | Exchange::GatewayTimeout
            | Exchange::Html => true,
        }
    }

    fn hit(&mut self, kind: Exchange, now: u64, ask: &Ask, call: &Call) -> Carried {
        self.count(kind);
        let after = self.latency();
        match kind {
            Exchange::ConnectionRefused => Carried::NotSent { after },
            Exchange::LostBefore => Carried::Lost { after },
            Exchange::LostAfter => {
                self.serve(now, ask, call);
                Carried::Lost { after }
            }
            Exchange::TimedOutBefore => Carried::TimedOut,
            Exchange::TimedOutAfter => {
                self.serve(now, ask, call);
                Carried::TimedOut
            }
            Exchange::TimedOutLate => {
                let due = now + self.rng.random_range(self.setup.late.clone());
                self.late_count += 1;
                self.late.insert((due, self.late_count), ask.clone());
                Carried::TimedOut
            }
            Exchange::Twice => {
                let first = self.serve(now, ask, call);
                self.echo = true;
                let second = self.serve(now, ask, call);
                self.echo = false;
                // Whatever repeats does so for a good answer.
                let good = second.status.is_success();
                self.arrives(if good { second } else { first })
            }
            Exchange::Slow => {
                let reply = self.serve(now, ask, call);
                let after = Duration::from_secs(self.rng.random_range(self.setup.slow.clone()));
                Carried::Reply { after, reply }
            }
            Exchange::TruncatedBody | Exchange::MalformedBody => {
                let mut reply = self.serve(now, ask, call);
                self.spoil(kind, &mut reply.body);
                self.arrives(reply)
            }
            Exchange::InternalErrorAfter | Exchange::GatewayTimeout => {
                self.serve(now, ask, call);
                let reply = self.refuse(kind, now, call.service());
                self.arrives(reply)
            }
            Exchange::TokenRevoked => {
                if let Some(token) = &ask.token {
                    self.tokens.remove(token);
                }
                self.arrives(Reply::unauthorized())
            }
            Exchange::QuotaExceeded
            | Exchange::Forbidden
            | Exchange::NotFound
            | Exchange::Conflict
            | Exchange::OverLimit
            | Exchange::TooManyRequests
            | Exchange::TooManyRequestsDate
            | Exchange::InternalError
            | Exchange::BadGateway
            | Exchange::BadGatewayHtml
            | Exchange::Unavailable
            | Exchange::UnavailableRetry
            | Exchange::Html => {
                let reply = self.refuse(kind, now, call.service());
                self.arrives(reply)
            }
        }
    }

    /// The answer to a request that something answers instead of the service.
    fn refuse(&mut self, kind: Exchange, now: u64, service: Service) -> Reply {
        let (status, message) = words(kind);
        match kind {
            Exchange::BadGatewayHtml | Exchange::GatewayTimeout | Exchange::Html => {
                Reply::html(status)
            }
            Exchange::OverLimit
            | Exchange::TooManyRequests
            | Exchange::TooManyRequestsDate
            | Exchange::UnavailableRetry => {
                let wait = self.rng.random_range(self.setup.retry_after.clone());
                let value = if kind == Exchange::TooManyRequestsDate {
                    http_date(self.clock(now.saturating_add(wait)))
                } else {
                    wait.to_string()
                };
                Reply::refusal(service, status, message).with_header(header::RETRY_AFTER, &value)
            }
            Exchange::ConnectionRefused
            | Exchange::LostBefore
            | Exchange::LostAfter
            | Exchange::TimedOutBefore
            | Exchange::TimedOutAfter
            | Exchange::TimedOutLate
            | Exchange::Twice
            | Exchange::Slow
            | Exchange::TokenRevoked
            | Exchange::QuotaExceeded
            | Exchange::Forbidden
            | Exchange::NotFound
            | Exchange::Conflict
            | Exchange::InternalError
            | Exchange::InternalErrorAfter
            | Exchange::BadGateway
            | Exchange::Unavailable
            | Exchange::TruncatedBody
            | Exchange::MalformedBody => Reply::refusal(service, status, message),
        }
    }

    fn spoil(&mut self, kind: Exchange, body: &mut Vec<u8>) {
        if kind == Exchange::TruncatedBody {
            let keep = self.rng.random_range(0..body.len().max(1));
            body.truncate(keep);
            return;
        }
        const NONSENSE: [&[u8]; 7] = [
            b"",
            b"{}",
            b"null",
            b"[]",
            b"{\"servers\": {}, \"server\": [], \"token\": 7}",
            b"\xff\xfe{\x00}",
            b"{\"servers\": [{\"id\": \"\\ud800\"}]}",
        ];
        if let Some(nonsense) = self.pick(&NONSENSE) {
            *body = nonsense.to_vec();
        }
    }

    fn latency(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(self.setup.latency_ms.clone()))
    }

    fn arrives(&mut self, mut reply: Reply) -> Carried {
        let request = format!("req-{}", super::uuid(&mut self.rng));
        reply = reply.with_header(HeaderName::from_static("x-openstack-request-id"), &request);
        Carried::Reply {
            after: self.latency(),
            reply,
        }
    }
}

/// The status and the message of an answer that says no. Kinds that do not answer themselves have
/// those of a server that is lost.
const fn words(kind: Exchange) -> (StatusCode, &'static str) {
    match kind {
        Exchange::Html => (StatusCode::OK, ""),
        Exchange::TokenRevoked => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        Exchange::QuotaExceeded => (
            StatusCode::FORBIDDEN,
            "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances",
        ),
        Exchange::Forbidden => (
            StatusCode::FORBIDDEN,
            "Policy doesn't allow this to be performed.",
        ),
        Exchange::NotFound => (StatusCode::NOT_FOUND, "The resource could not be found."),
        Exchange::Conflict => (
            StatusCode::CONFLICT,
            "There was a conflict with another request; it is locked.",
        ),
        Exchange::OverLimit => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "This request was rate-limited.",
        ),
        Exchange::TooManyRequests | Exchange::TooManyRequestsDate => {
            (StatusCode::TOO_MANY_REQUESTS, "Too many requests.")
        }
        Exchange::BadGateway | Exchange::BadGatewayHtml => (
            StatusCode::BAD_GATEWAY,
            "The server sent an invalid response.",
        ),
        Exchange::Unavailable | Exchange::UnavailableRetry => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The server is currently unavailable. Please try again at a later time.",
        ),
        Exchange::GatewayTimeout => (StatusCode::GATEWAY_TIMEOUT, "The server did not respond."),
        Exchange::ConnectionRefused
        | Exchange::LostBefore
        | Exchange::LostAfter
        | Exchange::TimedOutBefore
        | Exchange::TimedOutAfter
        | Exchange::TimedOutLate
        | Exchange::Twice
        | Exchange::Slow
        | Exchange::InternalError
        | Exchange::InternalErrorAfter
        | Exchange::TruncatedBody
        | Exchange::MalformedBody => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "Unexpected API Error. Please report this.",
        ),
    }
}
