//! Redis with a script, for comparison: three counters of a key, all charged or none, each forgotten after a minute. The least that
//! limits by a script do: fixed windows, no reservations, no limits that adapt.

use std::io;
use std::ops::Range;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::exchange::Verdicts;
use super::keys::{ACCOUNT_BYTES, Keys, names, write_account, write_model};
use super::meter::Meter;
use crate::failure::Failure;
use crate::target::Target;

/// As such scripts are mostly written: each counter is read, charged and given its minute.
pub(super) const SCRIPT: &str = "\
for i = 1, 3 do
  if tonumber(redis.call('GET', KEYS[i]) or '0') + ARGV[i] > tonumber(ARGV[4]) then return 0 end
end
for i = 1, 3 do
  redis.call('INCRBY', KEYS[i], ARGV[i])
  redis.call('EXPIRE', KEYS[i], 60, 'NX')
end
return 1";

/// With fewer commands: all counters are read at once, and only a new one is given its minute.
pub(super) const LEAN_SCRIPT: &str = "\
local used = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])
for i = 1, 3 do
  if (tonumber(used[i]) or 0) + ARGV[i] > tonumber(ARGV[4]) then return 0 end
end
for i = 1, 3 do
  if redis.call('INCRBY', KEYS[i], ARGV[i]) == tonumber(ARGV[i]) then redis.call('EXPIRE', KEYS[i], 60) end
end
return 1";

/// What is charged to each window, and the limit of all.
const ARGUMENTS: [&str; 4] = ["1000", "1000", "256", "1000000000000"];

/// A connection, with the script loaded.
pub(super) struct Link {
    stream: Stream,
    command: Vec<u8>,
    /// Where in the command names stand that change, account and model together.
    names: Vec<Range<usize>>,
}

trait ReadWrite: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> ReadWrite for T {}

struct Stream {
    socket: Box<dyn ReadWrite>,
    /// What has come and is not read, from `read` on.
    buffer: Vec<u8>,
    read: usize,
}

impl Link {
    /// Connects and loads `script`.
    pub(super) async fn open(target: &Target, script: &str) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::Failed(format!("Redis at {target}: {error}"));
        let socket: Box<dyn ReadWrite> = match target {
            Target::Http(authority) => {
                let socket = TcpStream::connect(authority).await.map_err(failed)?;
                socket.set_nodelay(true).map_err(failed)?;
                Box::new(socket)
            }
            Target::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(failed)?),
            Target::Https(_) => return Err(Failure::Usage("bench speaks to Redis without TLS".to_owned())),
        };
        let mut stream = Stream { socket, buffer: Vec::new(), read: 0 };
        let load = command(&[b"SCRIPT", b"LOAD", script.as_bytes()]);
        stream.socket.write_all(&load).await.map_err(failed)?;
        let length = stream.line().await.map_err(failed)?;
        if !length.starts_with(b"$") {
            return Err(failed(io::Error::other(String::from_utf8_lossy(&length).into_owned())));
        }
        let sha = stream.line().await.map_err(failed)?;
        let (account, model) = names();
        let keys = ["p", "u", "g"].map(|window| [&account[..], b":", &model, b":", window.as_bytes()].concat());
        let mut words: Vec<&[u8]> = vec![b"EVALSHA", &sha, b"3"];
        words.extend(keys.iter().map(Vec::as_slice));
        words.extend(ARGUMENTS.map(str::as_bytes));
        let command = command(&words);
        let length = account.len() + 1 + model.len();
        let starts = command.windows(account.len()).enumerate().filter(|(_, bytes)| *bytes == account);
        let names = starts.map(|(start, _)| start..start + length).collect();
        Ok(Self { stream, command, names })
    }

    /// Sends `in_flight` commands at once and waits for all their answers, until the meter is off.
    pub(super) async fn run(mut self, in_flight: u16, mut keys: Keys, meter: Rc<Meter>) {
        if let Err(error) = self.drive(in_flight, &mut keys, &meter).await {
            meter.on_error(format!("Redis: {error}"));
        }
    }

    async fn drive(&mut self, in_flight: u16, keys: &mut Keys, meter: &Meter) -> io::Result<()> {
        let mut commands = self.command.repeat(in_flight.into());
        while meter.is_open() {
            for command in commands.chunks_exact_mut(self.command.len()) {
                let key = keys.draw();
                for name in &self.names {
                    let name = &mut command[name.clone()];
                    write_account(&mut name[..ACCOUNT_BYTES], key);
                    write_model(name, key);
                }
            }
            let sent = meter.now();
            self.stream.socket.write_all(&commands).await?;
            for _ in 0..in_flight {
                let answer = self.stream.line().await?;
                let verdicts = match answer.as_slice() {
                    b":1" => Verdicts::ALLOWED,
                    b":0" => Verdicts::DENIED,
                    _ => return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
                };
                meter.on_answer(meter.now(), sent, verdicts, 0, answer.len());
            }
        }
        Ok(())
    }
}

impl Stream {
    /// The next line, without its end.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let unread = &self.buffer[self.read..];
            if let Some(end) = unread.windows(2).position(|bytes| bytes == b"\r\n") {
                let line = unread[..end].to_vec();
                self.read += end + 2;
                return Ok(line);
            }
            self.buffer.drain(..self.read);
            self.read = 0;
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A command as Redis reads it.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend(format!("${}\r\n", word.len()).bytes());
        command.extend_from_slice(word);
        command.extend_from_slice(b"\r\n");
    }
    command
}
