//! The three windows, and one value of something for each.

use core::ops::{Index, IndexMut};
use core::time::Duration;

use minicbor::{Decode, Encode};

/// Length of a window: the trailing 60 s.
pub const WINDOW: Duration = Duration::from_secs(60);

/// What a window counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// All prompt tokens, cached or not.
    Prompt,
    /// Prompt tokens that the prefix cache did not serve.
    UncachedPrompt,
    /// Output tokens.
    Generated,
}

impl Window {
    /// Every window, in the order of headers and statuses.
    pub const ALL: [Self; 3] = [Self::Prompt, Self::UncachedPrompt, Self::Generated];

    /// The window's name in metrics, logs and configuration: `prompt`, `uncached_prompt` or `generated`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::UncachedPrompt => "uncached_prompt",
            Self::Generated => "generated",
        }
    }
}

/// One `T` for each window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct PerWindow<T> {
    /// Of [`Window::Prompt`].
    #[n(0)]
    pub prompt: T,
    /// Of [`Window::UncachedPrompt`].
    #[n(1)]
    pub uncached_prompt: T,
    /// Of [`Window::Generated`].
    #[n(2)]
    pub generated: T,
}

/// Tokens per window.
pub type Tokens = PerWindow<u64>;

impl<T> PerWindow<T> {
    /// One value per window, in the order of [`Window::ALL`].
    pub const fn new(prompt: T, uncached_prompt: T, generated: T) -> Self {
        Self { prompt, uncached_prompt, generated }
    }

    /// `f(window)` for each window.
    pub fn from_fn(mut f: impl FnMut(Window) -> T) -> Self {
        Self { prompt: f(Window::Prompt), uncached_prompt: f(Window::UncachedPrompt), generated: f(Window::Generated) }
    }

    /// `f(value)` for each window.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> PerWindow<U> {
        PerWindow { prompt: f(self.prompt), uncached_prompt: f(self.uncached_prompt), generated: f(self.generated) }
    }

    /// `f(value, other)` for each window.
    pub fn map_with<O, U>(&self, other: &PerWindow<O>, mut f: impl FnMut(&T, &O) -> U) -> PerWindow<U> {
        PerWindow::from_fn(|window| f(&self[window], &other[window]))
    }

    /// Window and value, in the order of [`Window::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Window, &T)> {
        Window::ALL.into_iter().map(|window| (window, &self[window]))
    }
}

impl<T> Index<Window> for PerWindow<T> {
    type Output = T;
    fn index(&self, window: Window) -> &T {
        match window {
            Window::Prompt => &self.prompt,
            Window::UncachedPrompt => &self.uncached_prompt,
            Window::Generated => &self.generated,
        }
    }
}

impl<T> IndexMut<Window> for PerWindow<T> {
    fn index_mut(&mut self, window: Window) -> &mut T {
        match window {
            Window::Prompt => &mut self.prompt,
            Window::UncachedPrompt => &mut self.uncached_prompt,
            Window::Generated => &mut self.generated,
        }
    }
}
