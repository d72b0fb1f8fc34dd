"""The page's looks. Contrast of every text on its ground is 4.5 : 1 or more."""

from typing import Final

CSS: Final = """
:root{color-scheme:light;--ink:#1f2933;--muted:#5b6770;--line:#dde2e7;--good:#15703f;--bad:#b42318}
*{box-sizing:border-box}
body{margin:0;background:#f6f7f9;color:var(--ink);font:15px/1.5 system-ui,sans-serif}
header,main{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:32px}main{padding-bottom:48px}
h1{font-size:24px;line-height:1.25;margin:0 0 8px}h2{font-size:19px;margin:0}h3{font-size:15px;margin:24px 0 0}
p{margin:6px 0 12px;max-width:90ch}
section,.verdicts{background:#fff;border:1px solid var(--line);border-radius:8px;padding:20px 24px;margin:16px 0}
.muted,figcaption,.notes,.absent{color:var(--muted);font-size:13.5px}
.verdicts{list-style:none;padding:6px 24px}
.verdicts li{display:grid;grid-template-columns:150px 112px 1fr;align-items:baseline;padding:9px 0}
.verdicts li+li{border-top:1px solid var(--line)}
.verdicts em{font-style:normal;font-weight:600;font-size:13.5px}
.good em,small.good,span.good{color:var(--good)}.bad em,small.bad,span.bad{color:var(--bad)}
.plain em,.alone em,.unknown em{color:var(--muted)}
.line{border-left:4px solid var(--line);padding-left:10px;font-weight:600}
.line.good{border-color:var(--good)}.line.bad{border-color:var(--bad)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th{color:var(--muted);font-weight:500;font-size:13px;vertical-align:bottom}
th,td{text-align:right;padding:7px 0 7px 16px;border-bottom:1px solid var(--line);white-space:nowrap}
td{vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:0}
.wrap{display:inline-block;white-space:normal;max-width:34ch}
small{display:block;font-size:12.5px;color:var(--muted);min-height:1.2em}
.narrow table{width:auto}.narrow th,.narrow td{padding-left:40px}.narrow :is(th,td):first-child{padding-left:0}
.notes{padding-left:18px;margin:12px 0 0}
figure{margin:18px 0 0}svg{display:block;width:100%;height:auto}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:24px;align-items:start}
.absent{border-left:4px solid var(--line);padding-left:10px}
details{margin-top:16px}summary{cursor:pointer;color:#0b5cad;font-size:14px}
@media(max-width:760px){.wide svg{min-width:760px}.wide figure{overflow-x:auto}
.pair{grid-template-columns:1fr}.verdicts li{grid-template-columns:1fr}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
