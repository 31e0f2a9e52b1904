"""How the page looks: one column, light and dark, and on paper; and what a browser may do with it."""

# Should anything slip past the escaping, the browser still runs no script and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

LIGHT = """
  --ink: #1b1f24; --muted: #5c656f; --grid: #dde2e7; --paper: #ffffff; --shade: #eef4f9; --raised: #f6f8fa;
  --warn: #8a4b00; --warn-paper: #fff4e0;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #009e73;
  --series-3: #cc79a7; --series-4: #e69f00; --series-5: #56b4e9;
"""
DARK = """
  --ink: #e6e9ec; --muted: #9aa4ae; --grid: #333b44; --paper: #14181c; --shade: #1b2833; --raised: #1c2127;
  --warn: #f0b35a; --warn-paper: #2e2412;
  --series-0: #56b4e9; --series-1: #f0864a; --series-2: #35c79c;
  --series-3: #e09cc3; --series-4: #f0c05a; --series-5: #9bd3f5;
"""

LAYOUT = """
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
main, header, nav { max-width: 62rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3rem; }
.eyebrow { color: var(--series-0); font-size: .8rem; font-weight: 600; letter-spacing: .08em; margin: 0;
  text-transform: uppercase; }
h1 { font-size: 2.3rem; line-height: 1.15; margin: .2rem 0 .4rem; letter-spacing: -.02em;
  overflow-wrap: anywhere; }
h2 { font-size: 1.45rem; margin: 0 0 .8rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
a { color: var(--series-0); }
.meta { color: var(--muted); font-size: .9rem; margin: 0; }
.findings { font-size: 1rem; margin: 1.4rem 0; padding: 0; list-style: none; }
.findings li { margin: .35rem 0; padding-left: 1rem; border-left: 3px solid var(--series-0); }
.facts { display: flex; flex-wrap: wrap; gap: 1rem 2.6rem; margin: 1.5rem 0 0; padding: 1.1rem 0 0;
  border-top: 1px solid var(--grid); }
.facts div { display: flex; flex-direction: column-reverse; }
.facts dd { font-size: 1.5rem; font-weight: 600; line-height: 1.2; margin: 0; }
.facts dt { color: var(--muted); font-size: .82rem; }
nav { position: sticky; top: 0; z-index: 1; overflow-x: auto; white-space: nowrap;
  max-width: none; margin-top: 1.4rem; font-size: .9rem;
  padding: .6rem max(1.5rem, calc(50% - 29.5rem)); background: var(--paper);
  border-bottom: 1px solid var(--grid); }
nav a { margin-right: 1.3rem; text-decoration: none; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
section { padding: 2.4rem 0 1rem; scroll-margin-top: 1.5rem; }
section + section { border-top: 1px solid var(--grid); }
.warning { background: var(--warn-paper); color: var(--warn); border-left: 4px solid currentColor;
  padding: .7rem 1rem; margin: 1rem 0; border-radius: 0 .4rem .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; color: var(--muted); font-size: .84rem; text-align: left;
  padding-top: .6rem; }
th, td { padding: .5rem .8rem .5rem 0; border-bottom: 1px solid var(--grid); text-align: left;
  vertical-align: top; }
thead th { color: var(--muted); font-weight: 600; font-size: .82rem; vertical-align: bottom;
  border-bottom: 1.5px solid var(--muted); }
tbody th { font-weight: 500; min-width: 12rem; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; padding: .5rem 0 .5rem .8rem; }
.numbers td { white-space: nowrap; }
.numbers td strong { color: var(--series-0); }
.examples { table-layout: fixed; min-width: 44rem; }
.examples .narrow { width: 8.5rem; }
.influence { font-weight: 600; white-space: nowrap; }
.small, .artifacts { font-size: .8rem; }
.muted { color: var(--muted); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
details.text { white-space: normal; }
details.text > div { white-space: pre-wrap; margin-top: .5rem; padding: .7rem; background: var(--raised);
  border-radius: .4rem; }
details.text[open] > summary { color: var(--muted); }
summary { cursor: pointer; }
details.fold { margin: 1rem 0; }
details.fold > summary { font-weight: 600; color: var(--series-0); }
figure { margin: 0 0 2rem; }
figcaption { color: var(--muted); font-size: .84rem; margin-top: .4rem; max-width: 52rem; }
figure svg { display: block; width: 100%; min-width: 38rem; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans",
  sans-serif !important; }
pre, code, .address { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code, .address { font-size: .86em; }
pre { background: var(--raised); padding: 1rem; border-radius: .4rem; overflow-x: auto; font-size: .82rem;
  line-height: 1.5; }
tr:target > * { background: var(--shade); }
footer { padding: 1rem 0 4rem; }
"""

PRINT = f"""
@media print {{
  :root {{ color-scheme: light; {LIGHT} }}
  @page {{ margin: 16mm; }}
  body {{ font-size: 10pt; }}
  nav {{ display: none; }}
  main, header {{ max-width: none; padding: 0; }}
  header {{ padding-top: 0; }}
  figure, tr, .warning {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
  section {{ padding: 1.2rem 0 .4rem; }}
  .scroll {{ overflow: visible; }}
  figure svg, .examples {{ min-width: 0; }}
  pre {{ white-space: pre-wrap; }}
}}
"""

STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
{LAYOUT}{PRINT}"""


def document(title: str, body: str, style: str = "") -> str:
    """A page that needs nothing else, of a title and a body that are escaped already."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{STYLE}{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
