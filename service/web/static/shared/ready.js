// When a document can be used. Browsers drop what is typed, clicked or dragged before the first frame is on the screen:
// nobody can have meant what they did not see. Programs that drive a document wait for `html[data-ready]`.

/** Resolves when the first text or picture is on the screen. */
function firstPaint() {
  return new Promise((resolve) => {
    new PerformanceObserver((entries, observer) => {
      if (!entries.getEntriesByName("first-contentful-paint").length) return;
      observer.disconnect();
      resolve();
    }).observe({ type: "paint", buffered: true });
  });
}

const frame = () => new Promise(requestAnimationFrame);

/** Set `data-ready` on `<html>` once all that was done before this call is on the screen. Call it when all listeners are attached. */
export async function announceReady() {
  await firstPaint();
  await frame(); // with this one, what was changed meanwhile is drawn
  await frame(); // and by this one it has been
  document.documentElement.dataset.ready = "";
}
