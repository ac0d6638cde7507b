// Browsers start no workers for pages opened from disk. There the search runs in a hidden frame,
// which has the interface of a worker as far as the theme uses it. The name IFrameWorker is one
// that the theme's worker looks for in its parent.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.appendChild(this.frame);
    const inner = this.frame.contentWindow;
    inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    inner.importScripts = (...urls) =>
      urls.reduce((before, each) => before.then(() => IFrameWorker.load(inner, each)), Promise.resolve());
    this.ready = IFrameWorker.load(inner, url);
  }

  postMessage(data) {
    const message = () => new MessageEvent("message", { data });
    this.ready.then(() => this.frame.contentWindow.dispatchEvent(message()));
  }

  terminate() {
    this.frame.remove();
  }

  static load(inner, url) {
    return new Promise((resolve, reject) => {
      const script = inner.document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = reject;
      inner.document.body.appendChild(script);
    });
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
