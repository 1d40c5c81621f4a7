"use strict";
const find = (id) => document.getElementById(id);
const viewer = OpenSeadragon({
  id: "view", drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorAutoFade: false,
  maxZoomPixelRatio: 8, animationTime: 0.5, gestureSettingsMouse: { clickToZoom: false },
});
const ROUNDING_PX = 0.01;
let number = 0, about = null, asked = 0, doubted = -1, selected = null, revision = 0;
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) sessionStorage.setItem("token", given);

function make(tag, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  return made;
}
function pyramid(path, query = "") {
  const [first, last] = about.levels;
  return {
    width: about.size[0], height: about.size[1], tileSize: about.tile_px, tileOverlap: 0,
    minLevel: first, maxLevel: last,
    getTileUrl: (level, x, y) => `${path}/${level}/${x}_${y}.png${query}`,
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
function opacity() { return find("outline").checked ? 1 : find("opacity").value / 100; }
function mapPyramid() {
  const lines = find("outline").checked ? "&outline=1" : "";
  return pyramid(`map/${number}/${shown()}`, `?revision=${revision}${lines}`);
}
function addMap(replaced) {
  viewer.addTiledImage({
    tileSource: mapPyramid(), opacity: opacity(), x: 0, y: 0, width: 1,
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
  find("student").textContent = about.student ? `Graded by student ${about.student}` : "";
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
  selected = null;
  viewer.addOnceHandler("open", () => { scaleBar(); frames(); });
  startReview();
  const layers = about.notice ? [] : [{ tileSource: pyramid(`slide/${n}`) }];
  layers.push({ tileSource: mapPyramid(), opacity: opacity() });
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
function rectangle(box) { return mapLayer().imageToViewportRectangle(...box); }
function frames() {
  if (!viewer.world.getItemCount()) return;
  viewer.clearOverlays();
  const boxes = about.review.fields.slice(0, 500).map((one) => ["corrected", one.box, one.name]);
  if (selected) boxes.push(["cell", selected]);
  for (const [name, box, text] of boxes) {
    const frame = make("div", text);
    frame.className = name;
    viewer.addOverlay({ element: frame, location: rectangle(box) });
  }
}
function select(box) {
  selected = box;
  find("give").disabled = !box;
  frames();
}
function visit(box, margin) {
  if (!viewer.world.getItemCount()) return;
  select(box);
  const place = rectangle(box);
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
  const near = (a, b) => a.every((side, n) => Math.abs(side - b[n]) < ROUNDING_PX);
  const one = about.review.fields.find((it) => near(it.box, field.box));
  if (one) {
    const note = one.note ? `: ${one.note}` : "";
    target.append(make("p", `${one.was} by the student, ${one.name} by ${one.by}, ${one.at}${note}`));
  }
}
function mayCorrect() { return Boolean(about && about.reviewer && sessionStorage.getItem("token")); }
function startReview() {
  find("review").hidden = !(about.reviewer || about.review.fields.length || about.review.note
    || about.review.signed_by || about.review.fault);
  find("correcting").hidden = !mayCorrect();
  find("give").querySelectorAll("button").forEach((old) => old.remove());
  [...about.classes.map((one) => one.name), null].forEach((name, n) => {
    const key = name === null ? 0 : n + 1;
    const button = make("button", `${key}: ${name === null ? "as the student has it" : name}`);
    button.setAttribute("aria-keyshortcuts", key);
    button.addEventListener("click", () => give(key));
    if (key < 10) find("give").append(button);
  });
  find("give").disabled = true;
  find("slidenote").value = about.review.note;
  find("fieldnote").value = "";
  tellReview();
}
function tellReview() {
  const { fields, signed_by: by, signed_at: at, note, fault } = about.review;
  const count = fields.length === 1 ? "1 field" : `${fields.length} fields`;
  const own = about.reviewer && !mayCorrect()
    ? " Open the address that wsikd view has printed to correct grades." : "";
  find("corrected").textContent = fault || `${count} corrected.${note ? ` Note: ${note}` : ""}${own}`;
  find("signature").textContent = by ? `Signed by ${by}, ${at}.`
    : about.reviewer ? `Not signed. Reviewer: ${about.reviewer}.` : "Not signed.";
}
async function change(wanted) {
  if (!mayCorrect()) return false;
  const n = number;
  const answer = await fetch(`review/${n}.json`, {
    method: "PUT", body: JSON.stringify(wanted),
    headers: { "Content-Type": "application/json", "X-Wsikd-Token": sessionStorage.getItem("token") },
  });
  if (!answer.ok) { tell(await answer.text()); return false; }
  if (n !== number) return true;
  about.review = await answer.json();
  revision += 1;
  tell(about.notice);
  tellReview();
  addMap(mapLayer());
  frames();
  return true;
}
async function give(key) {
  if (!selected || key > about.classes.length) return;
  const box = selected;
  const wanted = { box, grade: key ? key - 1 : null, note: find("fieldnote").value };
  if (!await change(wanted)) return;
  find("fieldnote").value = "";
  const mine = ++asked;
  const answer = await fetch(`at/${number}.json?x=${box[0] + box[2] / 2}&y=${box[1] + box[3] / 2}`);
  if (answer.ok && mine === asked) tellField(await answer.json());
}
function classKey(key) {
  if (mayCorrect()) { give(key); return; }
  const box = find("classes").querySelectorAll("input")[key - 1];
  if (box) box.click();
}
find("savenote").addEventListener("click", () => change({ note: find("slidenote").value }));
find("sign").addEventListener("click", async () => {
  const note = find("slidenote").value;
  if (note !== about.review.note && !await change({ note })) return;
  change({ sign: true });
});
let corner = null;
viewer.addHandler("canvas-drag", (event) => {
  if (!mayCorrect() || !event.shift || !viewer.world.getItemCount()) return;
  event.preventDefaultAction = true;
  const place = mapLayer().viewportToImageCoordinates(viewer.viewport.pointFromPixel(event.position));
  corner = corner || place;
  const [x, y] = [Math.min(corner.x, place.x), Math.min(corner.y, place.y)];
  select([x, y, Math.abs(corner.x - place.x), Math.abs(corner.y - place.y)]);
});
viewer.addHandler("canvas-drag-end", () => { corner = null; });
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
  if (mayCorrect()) select(field.box);
  else visit(field.box, 0.5);
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
find("outline").addEventListener("change", () => { if (about) addMap(mapLayer()); });
find("next").addEventListener("click", () => visitDoubtful(1));
find("previous").addEventListener("click", () => visitDoubtful(-1));
document.addEventListener("keydown", (event) => {
  const typed = "input:not([type=checkbox]), select, textarea";
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches(typed)) return;
  if (event.key === "n") visitDoubtful(1);
  if (event.key === "p") visitDoubtful(-1);
  if (event.key === "o") find("outline").click();
  if (event.key === "m" && viewer.world.getItemCount()) {
    mapLayer().setOpacity(mapLayer().getOpacity() ? 0 : opacity());
  }
  if (/^[0-9]$/.test(event.key)) classKey(Number(event.key));
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
