"use strict";
const find = (id) => document.getElementById(id);
const viewer = OpenSeadragon({
  id: "view", drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorAutoFade: false,
  maxZoomPixelRatio: 8, animationTime: 0.5, gestureSettingsMouse: { clickToZoom: false },
});
let number = 0, about = null, asked = 0, doubted = -1;

function make(tag, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  return made;
}
function pyramid(path) {
  const [first, last] = about.levels;
  return {
    width: about.size[0], height: about.size[1], tileSize: about.tile_px, tileOverlap: 0,
    minLevel: first, maxLevel: last,
    getTileUrl: (level, x, y) => `${path}/${level}/${x}_${y}.png`,
  };
}
function shown() {
  let bits = 0n;
  find("classes").querySelectorAll("input").forEach((box, n) => {
    if (box.checked) bits |= 1n << BigInt(n);
  });
  return bits;
}
function mapLayer() { return viewer.world.getItemAt(viewer.world.getItemCount() - 1); }
function opacity() { return find("opacity").value / 100; }
function addMap(replaced) {
  viewer.addTiledImage({
    tileSource: pyramid(`map/${number}/${shown()}`), opacity: opacity(), x: 0, y: 0, width: 1,
    success: () => { if (replaced) viewer.world.removeItem(replaced); },
  });
}
async function show(n) {
  number = n;
  const answer = await fetch(`about/${n}.json`);
  if (number !== n) return;
  if (!answer.ok) { tell(await answer.text()); return; }
  about = await answer.json();
  location.hash = n;
  document.title = `${about.name} - wsikd view`;
  tell(about.notice);
  const read = about.summary;
  find("score").textContent = about.score;
  find("assessed").textContent = about.score ? about.not_assessed : "";
  find("reasons").replaceChildren(...about.reasons.map((reason) => {
    const line = make("p", reason.text);
    if (reason.grave) line.className = "grave";
    return line;
  }));
  showPlaces();
  find("summary").textContent = `${read.fields} fields of ${about.field_um.toPrecision(4)} `
    + `um, ${about.mpp.toPrecision(4)} um/px`;
  const box = find("classes");
  box.querySelectorAll("label").forEach((old) => old.remove());
  about.classes.forEach((one) => {
    const label = make("label"), tick = make("input"), colour = make("i");
    tick.type = "checkbox";
    tick.checked = true;
    tick.addEventListener("change", () => addMap(mapLayer()));
    colour.style.background = one.colour;
    const share = read[`${one.name}_share`];
    label.append(tick, colour, `${one.name}${share == null ? "" : ` ${(100 * share).toFixed(1)} %`}`);
    box.append(label);
  });
  viewer.clearOverlays();
  viewer.close();
  tellField(null);
  viewer.addOnceHandler("open", () => { scaleBar(); });
  const layers = about.notice ? [] : [{ tileSource: pyramid(`slide/${n}`) }];
  layers.push({ tileSource: pyramid(`map/${n}/${shown()}`), opacity: opacity() });
  viewer.open(layers);
}
function showPlaces() {
  doubted = -1;
  find("place").textContent = `${about.doubtful.length}`;
  find("doubtful").hidden = !about.doubtful.length;
  find("cores").querySelectorAll("button").forEach((old) => old.remove());
  find("cores").hidden = !about.cores.length;
  for (const core of about.cores) {
    const button = make("button", `${core.number}: ${core.score}`);
    button.addEventListener("click", () => visit(core.box, 0.05));
    find("cores").append(button);
  }
}
function visit(box, margin) {
  if (!viewer.world.getItemCount()) return;
  viewer.clearOverlays();
  const frame = make("div");
  frame.className = "cell";
  const place = mapLayer().imageToViewportRectangle(...box);
  viewer.addOverlay({ element: frame, location: place });
  viewer.viewport.fitBounds(new OpenSeadragon.Rect(
    place.x - margin * place.width, place.y - margin * place.height,
    (1 + 2 * margin) * place.width, (1 + 2 * margin) * place.height));
}
async function visitDoubtful(step) {
  if (!about || !about.doubtful.length || !viewer.world.getItemCount()) return;
  const count = about.doubtful.length;
  doubted = doubted < 0 ? (step > 0 ? 0 : count - 1) : (doubted + step + count) % count;
  find("place").textContent = `${doubted + 1} of ${count}`;
  const [x, y, width, height] = about.doubtful[doubted];
  visit([x, y, width, height], 0.5);
  const mine = ++asked;
  const answer = await fetch(`at/${number}.json?x=${x + width / 2}&y=${y + height / 2}`);
  if (answer.ok && mine === asked) tellField(await answer.json());
}
function tell(text) {
  find("notice").textContent = text || "";
  find("notice").hidden = !text;
}
async function fieldAt(pixel) {
  if (!about || !viewer.world.getItemCount()) return null;
  const place = mapLayer().viewportToImageCoordinates(viewer.viewport.pointFromPixel(pixel));
  const mine = ++asked;
  const answer = await fetch(`at/${number}.json?x=${place.x}&y=${place.y}`);
  return answer.ok && mine === asked ? answer.json() : undefined;
}
function tellField(field) {
  const target = find("field");
  target.replaceChildren();
  if (!field) { target.textContent = "none that was read"; return; }
  const table = make("table");
  const rows = about.classes.map((one, n) => [one.name, field.probabilities[n].toFixed(3)]);
  rows.push(["tissue", field.tissue.toFixed(2)], ["level-0 x, y", field.level0.join(", ")]);
  rows.forEach(([name, value], n) => {
    const row = make("tr");
    row.append(make("td", name), make("td", value));
    if (n === field.grade) row.style.fontWeight = "bold";
    table.append(row);
  });
  target.append(table);
}
let waiting = 0;
find("view").addEventListener("pointermove", (event) => {
  const inside = find("view").getBoundingClientRect();
  const pixel = new OpenSeadragon.Point(event.clientX - inside.left, event.clientY - inside.top);
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    const field = await fieldAt(pixel);
    if (field !== undefined) tellField(field);
  }, 40);
});
viewer.addHandler("canvas-click", async (event) => {
  if (!event.quick) return;
  clearTimeout(waiting);
  const field = await fieldAt(event.position);
  if (!field) return;
  tellField(field);
  visit(field.box, 0.5);
});
function scaleBar() {
  if (!about || !viewer.world.getItemCount()) return;
  const zoom = mapLayer().viewportToImageZoom(viewer.viewport.getZoom(true));
  const perPixel = about.mpp / zoom, longest = 160 * perPixel;
  const power = 10 ** Math.floor(Math.log10(longest));
  const length = [5, 2, 1].map((n) => n * power).find((n) => n <= longest);
  const bar = find("scale").firstElementChild;
  bar.style.width = `${length / perPixel}px`;
  bar.textContent = length >= 1000 ? `${length / 1000} mm` : `${+length.toPrecision(3)} um`;
}
viewer.addHandler("animation", scaleBar);
viewer.addHandler("resize", scaleBar);
find("opacity").addEventListener("input", () => {
  if (viewer.world.getItemCount()) mapLayer().setOpacity(opacity());
});
find("next").addEventListener("click", () => visitDoubtful(1));
find("previous").addEventListener("click", () => visitDoubtful(-1));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  if (event.key === "n") visitDoubtful(1);
  if (event.key === "p") visitDoubtful(-1);
});
find("home").addEventListener("click", () => viewer.viewport.goHome());
find("full").addEventListener("click", () => {
  viewer.viewport.zoomTo(mapLayer().imageToViewportZoom(1));
});
find("slides").addEventListener("change", (event) => show(Number(event.target.value)));
(async () => {
  const all = await (await fetch("slides.json")).json();
  all.slides.forEach((name, n) => {
    const option = make("option", name);
    option.value = n;
    find("slides").append(option);
  });
  find("note").textContent = all.note;
  find("version").textContent = `wsikd ${all.version}.`;
  const first = Number(location.hash.slice(1)) || 0;
  find("slides").value = first < all.slides.length ? first : 0;
  show(Number(find("slides").value));
})();
