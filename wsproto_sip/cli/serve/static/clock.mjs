// Time, as an object: the tests of the other modules turn its hands themselves.

export const clock = {
  now: () => Date.now(),

  // Calls a function in so many milliseconds. Returns a function that prevents it.
  after(milliseconds, action) {
    const timer = setTimeout(action, milliseconds);
    return () => clearTimeout(timer);
  },
};

// Resolves in so many milliseconds.
export const pause = (time, milliseconds) =>
  new Promise((resolve) => {
    time.after(milliseconds, resolve);
  });
