//! MySQL in session mode. The server speaks first: the backend is chosen before anything is known
//! of the client, and its greeting is passed on. Login and all that follows is the client's and
//! the server's own, but for TLS, which each leg has or has not.

mod follow;
mod login;
mod refuse;

pub use follow::Follow;
pub use login::LateTls;
pub use login::Welcome;
pub use login::first_answer;
pub use login::log_in;
pub use refuse::refusal;
