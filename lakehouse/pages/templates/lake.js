const search = document.querySelector('input[type=search]'), counter = document.querySelector('output');
const chips = [...document.querySelectorAll('.chip input')], grid = document.querySelector('.grid');
const wide = document.querySelector('.wide'), top_ = document.querySelector('header.top');
const asked = new URLSearchParams(location.hash.slice(1));
search.value = asked.get('name') || '';
for (const chip of chips) chip.checked = (asked.get('state') || '').split(',').includes(chip.value);
function filter() {
  const name = search.value.trim().toLowerCase(), states = chips.filter(c => c.checked).map(c => c.value);
  const rows = [...grid.querySelectorAll('.row[data-topic], .row.cause')];
  let shown = 0, all = 0, cause = null;
  for (const row of rows) {
    if (row.classList.contains('cause')) { cause = row; cause.hidden = true; continue; }
    const has = row.dataset.states.split(' ');
    const isNamed = row.dataset.topic.toLowerCase().includes(name);
    row.hidden = !(isNamed && (!states.length || states.some(s => has.includes(s))));
    if (cause && !row.hidden) cause.hidden = false;
    shown += !row.hidden;
    all += 1;
  }
  grid.className = ['grid', states.length && 'some', ...states.map(s => 'f-' + s)].filter(Boolean).join(' ');
  counter.textContent = shown + ' of ' + all + ' topics';
  const kept = new URLSearchParams();
  if (name) kept.set('name', name);
  if (states.length) kept.set('state', states.join(','));
  history.replaceState(null, '', kept.size ? '#' + kept : location.pathname + location.search);
}
search.addEventListener('input', filter);
for (const chip of chips) chip.addEventListener('change', filter);
document.querySelector('form').addEventListener('submit', event => event.preventDefault());
function describe(event) {
  const cell = event.target;
  if (cell.parentElement?.className !== 'cells' || cell.title || cell.tagName !== 'A') return;
  const place = [...cell.parentElement.children].indexOf(cell), topic = cell.closest('.row').dataset.topic;
  const hours = grid.querySelector('.marks').dataset.hours.split(' ');
  cell.title = topic + ' ' + hours[place] + ': ' + cell.className.slice(2);
  cell.setAttribute('aria-label', cell.title);
}
grid.addEventListener('mouseover', describe);
grid.addEventListener('focusin', describe);
if (search.value || chips.some(c => c.checked)) filter();
wide.scrollLeft = wide.scrollWidth;
let last = null, shown = grid.innerHTML;
function swap(page) {
  const fresh = page.querySelector('.grid'), markup = fresh.innerHTML;
  top_.querySelector('.when').replaceWith(page.querySelector('.when'));
  if (markup === shown) return;
  const isAtEnd = wide.scrollLeft + wide.clientWidth >= wide.scrollWidth - 30;
  grid.style.setProperty('--columns', fresh.style.getPropertyValue('--columns'));
  grid.replaceChildren(...fresh.children);
  for (const chip of chips) {
    const now = page.querySelector('.chip input[value="' + chip.value + '"]');
    chip.parentElement.querySelector('b').textContent = now.parentElement.querySelector('b').textContent;
  }
  filter();
  if (isAtEnd) wide.scrollLeft = wide.scrollWidth;
  shown = markup;
}
async function look() {
  const live = top_.querySelector('.live');
  try {
    const answer = await fetch(location.pathname, {cache: 'no-cache'});
    if (!answer.ok) throw new Error(answer.status);
    live.textContent = 'live';
    const stamp = answer.headers.get('Last-Modified');
    if (stamp === last) return;
    swap(new DOMParser().parseFromString(await answer.text(), 'text/html'));
    last = stamp;
  } catch (gone) { if (live) live.textContent = 'its server does not answer'; }
}
if (top_.dataset.live && location.protocol === 'http:') setInterval(look, 1000 * top_.dataset.live);
