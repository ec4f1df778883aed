const search = document.querySelector('input[type=search]'), counter = document.querySelector('output');
const chips = [...document.querySelectorAll('.chip input')], grid = document.querySelector('.grid');
const rows = [...document.querySelectorAll('.row[data-topic]')], wide = document.querySelector('.wide');
const hours = document.querySelector('.marks').dataset.hours.split(' ');
const asked = new URLSearchParams(location.hash.slice(1));
search.value = asked.get('name') || '';
for (const chip of chips) chip.checked = (asked.get('state') || '').split(',').includes(chip.value);
function filter() {
  const name = search.value.trim().toLowerCase(), states = chips.filter(c => c.checked).map(c => c.value);
  let shown = 0;
  for (const row of rows) {
    const has = row.dataset.states.split(' ');
    const isNamed = row.dataset.topic.toLowerCase().includes(name);
    row.hidden = !(isNamed && (!states.length || states.some(s => has.includes(s))));
    shown += !row.hidden;
  }
  grid.className = ['grid', states.length && 'some', ...states.map(s => 'f-' + s)].filter(Boolean).join(' ');
  counter.textContent = shown + ' of ' + rows.length + ' topics';
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
  cell.title = topic + ' ' + hours[place] + ': ' + cell.className.slice(2);
  cell.setAttribute('aria-label', cell.title);
}
grid.addEventListener('mouseover', describe);
grid.addEventListener('focusin', describe);
if (search.value || chips.some(c => c.checked)) filter();
wide.scrollLeft = wide.scrollWidth;
