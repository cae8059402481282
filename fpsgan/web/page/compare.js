// Two videos over one another, the boundary between them moved by hand; they play in step, by the second one's clock.

const SPEEDS = [1, 0.5, 0.25, 0.1];
const MAP_WIDTH = 480; // px at most: a map shows where, not what
const APART = 0.04; // seconds that the two may differ while they play

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// drawn, since not every system has these signs in its fonts
const SIGNS = { play: "M6 4l13 8-13 8z", pause: "M6 4h4v16H6zM14 4h4v16h-4z", back: "M18 4v16L8 12zM5 4h2v16H5z", forth: "M6 4l10 8-10 8zM17 4h2v16h-2z" };
function drawSign(button, sign) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS(svg.namespaceURI, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: 20, height: 20, fill: "currentColor", "aria-hidden": "true" })) svg.setAttribute(key, value);
  path.setAttribute("d", SIGNS[sign]);
  svg.append(path);
  button.replaceChildren(svg);
}

/**
 * before, after: addresses of videos. fps: frames a second of the second. slow: how many times slower the second plays.
 * start: seconds of the first where the second begins. mapped: address of the map of a frame, by its number, or null.
 * failed: called once if the browser cannot play one of them.
 */
export function compare({ before, after, fps, slow = 1, start = 0, mapped = null, failed, name }) {
  const video = (src, muted) => element("video", { src, muted, playsInline: true, preload: "auto", tabIndex: -1 });
  const first = video(before, true), second = video(after, true);
  first.setAttribute("aria-hidden", "true");
  second.setAttribute("aria-hidden", "true");
  const canvas = element("canvas", { ariaHidden: "true" });
  const line = element("div", { className: "line" });
  const stage = element("div", { className: "stage" }, first, second, canvas, line,
    element("span", { className: "side left" }, "before"), element("span", { className: "side right" }, "after"));
  const boundary = element("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50, ariaLabel: `Boundary between before and after, ${name}` });
  const play = element("button", { className: "icon", type: "button" });
  const back = element("button", { className: "icon", type: "button", ariaLabel: "One frame back", title: "One frame back" });
  const forth = element("button", { className: "icon", type: "button", ariaLabel: "One frame on", title: "One frame on" });
  const scrub = element("input", { type: "range", min: 0, max: 1, step: "any", value: 0, className: "scrub", ariaLabel: "Time" });
  const time = element("output", { className: "time" }, "0.00 s");
  const speed = element("select", {}, ...SPEEDS.map((each) => element("option", { value: each }, `${each}×`)));
  const sound = element("input", { type: "checkbox" });
  const guesses = element("input", { type: "checkbox" });
  const controls = element("div", { className: "controls" }, play, back, forth, scrub, time,
    element("label", {}, "Speed", speed), element("label", {}, sound, "Sound"));
  if (mapped) controls.append(element("label", {}, guesses, "Show guesses"));
  const whole = element("div", { className: "compare" }, stage, boundary, controls);

  const frameAt = () => Math.floor(second.currentTime * fps + 0.01);
  const beside = () => start + second.currentTime / slow;

  function shape() {
    if (!second.videoWidth) return;
    stage.style.aspectRatio = `${second.videoWidth} / ${second.videoHeight}`;
    // as wide as there is room for, as long as it is not higher than most of the window
    whole.style.width = `min(100%, ${(70 * second.videoWidth) / second.videoHeight}vh)`;
  }
  function divide() {
    second.style.clipPath = canvas.style.clipPath = `inset(0 0 0 ${boundary.value}%)`;
    line.style.left = `${boundary.value}%`;
  }
  function label() {
    drawSign(play, second.paused ? "play" : "pause");
    play.ariaLabel = play.title = second.paused ? "Play" : "Pause";
  }
  function together() {
    const rate = Number(speed.value);
    second.playbackRate = rate;
    first.playbackRate = Math.max(0.0625, rate / slow);
    if (second.paused || second.seeking) first.pause();
    else if (first.paused && !first.ended) first.play().catch(() => {}); // refused while a pause is under way: next time
    if (!first.seeking && Math.abs(first.currentTime - beside()) > (second.paused ? 0.0005 : APART)) first.currentTime = beside();
  }
  function show() {
    if (!whole.isConnected) return;
    if (document.activeElement !== scrub || !second.paused) scrub.value = second.currentTime;
    time.textContent = `${second.currentTime.toFixed(2)} s`;
    together();
    draw();
    if (!second.paused) requestAnimationFrame(show);
  }

  // the maps: white where a frame can be believed becomes nothing, black where it is a guess becomes red
  const maps = new Map();
  async function load(number) {
    maps.set(number, null);
    const answer = await fetch(mapped(number));
    if (answer.status !== 200) return; // a frame of the source: nothing was made up
    const image = await createImageBitmap(await answer.blob());
    const width = Math.min(MAP_WIDTH, image.width), height = Math.max(1, Math.round((image.height * width) / image.width));
    const board = new OffscreenCanvas(width, height), pen = board.getContext("2d");
    pen.drawImage(image, 0, 0, width, height);
    const data = pen.getImageData(0, 0, width, height);
    for (let at = 0; at < data.data.length; at += 4) {
      const guess = 255 - data.data[at];
      data.data.set([255, 0, 80, guess * 0.75], at);
    }
    pen.putImageData(data, 0, 0);
    maps.set(number, board);
    if (number === frameAt()) draw();
  }
  function draw() {
    canvas.hidden = !guesses.checked;
    if (!guesses.checked) return;
    const number = frameAt();
    if (!maps.has(number)) load(number);
    const map = maps.get(number);
    canvas.width = map ? map.width : 1;
    canvas.height = map ? map.height : 1;
    if (map) canvas.getContext("2d").drawImage(map, 0, 0);
  }

  function step(by) {
    second.pause();
    const last = Math.max(0, Math.round(second.duration * fps) - 1);
    second.currentTime = (Math.min(last, Math.max(0, frameAt() + by)) + 0.5) / fps;
  }
  play.addEventListener("click", () => {
    if (second.ended) second.currentTime = 0;
    second.paused ? second.play() : second.pause();
  });
  back.addEventListener("click", () => step(-1));
  forth.addEventListener("click", () => step(1));
  scrub.addEventListener("input", () => { second.currentTime = scrub.value; });
  boundary.addEventListener("input", divide);
  speed.addEventListener("change", together);
  sound.addEventListener("change", () => { second.muted = !sound.checked; });
  guesses.addEventListener("change", draw);
  second.addEventListener("loadedmetadata", () => { scrub.max = second.duration; shape(); show(); });
  for (const event of ["play", "pause", "ended"]) second.addEventListener(event, () => { label(); show(); });
  for (const event of ["seeked", "timeupdate"]) second.addEventListener(event, show);
  let told = false;
  for (const each of [first, second]) each.addEventListener("error", () => { if (!told) { told = true; failed?.(); } });
  for (const each of [first, second]) each.addEventListener("loadeddata", () => { if (!each.videoWidth && !told) { told = true; failed?.(); } });
  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    boundary.value = (100 * (event.clientX - box.left)) / box.width;
    divide();
  };
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
  drawSign(back, "back");
  drawSign(forth, "forth");
  divide();
  label();
  draw();
  return whole;
}
