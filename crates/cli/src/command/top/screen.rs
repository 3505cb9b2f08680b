//! The terminal: raw and on its alternate screen while a [`Screen`] lives, as it was when that is dropped, a panic included.

use std::io;
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::sync::mpsc::{Receiver, channel};

use super::app::App;
use super::draw;

/// How soon the keyboard's thread sees that nobody reads it any more.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Owns the terminal.
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    /// Takes the terminal. A panic gives it back before it is reported.
    ///
    /// # Errors
    /// The system's: it is none, or went away.
    pub(super) fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }

    /// Shows the state.
    ///
    /// # Errors
    /// The system's: the terminal went away.
    pub(super) fn draw(&mut self, app: &App) -> io::Result<()> {
        self.0.draw(|frame| draw::draw(frame, app)).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing is left to tell it to.
        let _ = ratatui::try_restore();
    }
}

/// What is typed, and changes of size. The thread that reads them ends soon after the receiver is dropped.
pub(super) fn keyboard() -> Receiver<io::Result<Event>> {
    let (sender, receiver) = channel(16);
    thread::spawn(move || {
        while !sender.is_closed() {
            let read = match event::poll(LOOK_UP) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    receiver
}
