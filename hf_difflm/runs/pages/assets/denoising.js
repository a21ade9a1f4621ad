"use strict";
(() => {
  const samples = JSON.parse(document.getElementById("data").textContent);
  const names = ["hidden", "given", "masked", "new", "settled"];
  const slider = document.getElementById("frame");
  const where = document.getElementById("where");
  const play = document.getElementById("play");
  const speed = document.getElementById("speed");
  const canvases = Array.from(document.querySelectorAll(".canvas"));
  const last = Math.max(0, ...samples.map((sample) => sample.frames.length - 1));
  slider.max = String(last);
  let timer = null;

  function draw(canvas, runs) {
    canvas.replaceChildren(
      ...runs.map(([text, state]) => {
        const span = document.createElement("span");
        span.className = names[state];
        span.textContent = text; // never as HTML: a model may write anything
        return span;
      }),
    );
  }

  function show(place) {
    slider.value = String(place);
    samples.forEach((sample, index) => {
      const frame = sample.frames[Math.min(place, sample.frames.length - 1)];
      draw(canvases[index], frame.runs);
      document.getElementById(`count-${index}`).textContent = `${frame.done} of ${frame.total} tokens`;
    });
    const frames = samples.find((sample) => sample.frames.length - 1 === last).frames;
    const frame = frames[Math.min(place, frames.length - 1)];
    where.textContent = frame.final ? "result" : `draft ${frame.step}`;
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "play";
  }

  function start() {
    if (Number(slider.value) >= last) show(0);
    play.textContent = "pause";
    timer = setInterval(() => {
      const next = Number(slider.value) + 1;
      show(Math.min(next, last));
      if (next >= last) stop();
    }, 1000 / Number(speed.value));
  }

  play.addEventListener("click", () => (timer === null ? start() : stop()));
  speed.addEventListener("change", () => {
    if (timer !== null) {
      stop();
      start();
    }
  });
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  show(last);
})();
