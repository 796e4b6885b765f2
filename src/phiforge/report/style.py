"""The look of a report: system fonts, light and dark by the reader's own setting, one column on a phone."""

COLOURS = 10  # --c1 to --c10, told apart in light and dark

CSS = """
:root{--bg:#f5f6f8;--card:#fff;--fg:#1b2230;--muted:#5d6778;--line:#e3e6ec;--soft:#f0f2f6;--c1:#2b62d9;--c2:#c2570c;--c3:#0f7b5f;
--c4:#8446c6;--c5:#b8245f;--c6:#0b7f9e;--c7:#8a6d00;--c8:#7a3b1d;--c9:#4f8a10;--c10:#d14a4a;
--good:#0f7b5f;--bad:#bf2b2b;--warn:#9a6400;--mono:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--bg:#11141a;--card:#191e26;--fg:#e5e9f0;--muted:#9aa4b5;--line:#2a313d;--soft:#212732;
--c1:#7fa8ff;--c2:#f5a15c;
--c3:#5fd0ae;--c4:#c39bf2;--c5:#ff8fb5;--c6:#5cc8e8;--c7:#e0c040;--c8:#d69a78;--c9:#a5d65a;--c10:#ff7a70;--good:#5fd0ae;--bad:#ff8a8a;--warn:#f0c060}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;overflow-wrap:anywhere;background:var(--bg);color:var(--fg);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1240px;margin:0 auto;padding:clamp(1rem,3vw,2.5rem) clamp(.8rem,3vw,2rem) 3rem}
header{margin-bottom:1.6rem}
.eyebrow{color:var(--muted);font-size:.86rem;letter-spacing:.02em;margin:0 0 .2rem}
h1{font-size:clamp(1.5rem,4vw,2.15rem);line-height:1.2;letter-spacing:-.015em;margin:0 0 .6rem;overflow-wrap:anywhere}
h2{font-size:1.06rem;letter-spacing:-.005em;margin:0 0 .7rem}
h3{font-size:.9rem;color:var(--muted);font-weight:600;margin:1.1rem 0 .4rem}
h3:first-child{margin-top:0}
.lead{font-size:clamp(1.05rem,2.2vw,1.22rem);line-height:1.5;max-width:46em;margin:.9rem 0 0}
.note{color:var(--muted);font-size:.9rem;margin:-.3rem 0 .8rem;max-width:60em}
p{margin:.4rem 0;overflow-wrap:anywhere}
.badges{display:flex;flex-wrap:wrap;gap:.4rem}
.badge{display:inline-block;font-size:.8rem;line-height:1.3;padding:.18rem .6rem;border-radius:1rem;background:var(--soft);
color:var(--muted);border:1px solid var(--line)}
.badge.good{color:var(--good);border-color:currentColor}.badge.bad{color:var(--bad);border-color:currentColor}
.badge.warn{color:var(--warn);border-color:currentColor}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.2rem,1fr));gap:.8rem;margin:0 0 1.2rem}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.75rem .9rem;display:flex;flex-direction:column;
min-width:0}
.tile .k{color:var(--muted);font-size:.82rem}
.tile b{font-size:1.45rem;font-weight:650;letter-spacing:-.02em;line-height:1.3;font-variant-numeric:tabular-nums;
overflow-wrap:anywhere}
.tile .a{color:var(--muted);font-size:.8rem;line-height:1.35}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1.05rem 1.15rem;margin:0 0 1.2rem;min-width:0}
.card.trouble{border-color:var(--bad)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:1.2rem 1.6rem}
.two{columns:2 27rem;column-gap:1.2rem}.two{margin-bottom:1.2rem}.two .card{break-inside:avoid}.two .card:last-child{margin-bottom:0}
figure{margin:0;min-width:0}figcaption{font-size:.9rem;font-weight:600}figcaption span{color:var(--muted);font-weight:400}
figure svg{display:block;width:100%;height:auto}
svg text{font-family:inherit}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch;margin:0 -.2rem;padding:0 .2rem}
.scroll:focus-visible,summary:focus-visible,a:focus-visible{outline:2px solid var(--c1);outline-offset:2px;border-radius:4px}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th{color:var(--muted);font-weight:600;font-size:.82rem;text-align:left;white-space:nowrap}
th,td{padding:.38rem .8rem .38rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td.s{white-space:nowrap}tr:last-child td{border-bottom:0}td{min-width:4rem}td:first-child{min-width:8rem}
td{max-width:34rem;overflow-wrap:break-word}
th.n,td.n{text-align:right;white-space:nowrap}
code,.hash{font-family:var(--mono);font-size:.86em}
.hash{color:var(--muted);overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:fit-content(45%) minmax(0,1fr);gap:.28rem 1.1rem;margin:0;font-size:.92rem}
dt{color:var(--muted)}dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.bars{display:grid;grid-template-columns:minmax(6.5rem,max-content) minmax(0,1fr) max-content;gap:.55rem 1rem;align-items:center;
margin:.2rem 0 1rem}
.bar{display:contents;font-size:.93rem}
.track{height:.85rem;background:var(--soft);border-radius:.5rem;overflow:hidden}
.fill{display:block;height:100%;background:var(--muted);opacity:.55;border-radius:.5rem}
.bar.strong{font-weight:650}.bar.strong .fill{background:var(--c1);opacity:1}
.bar .v{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.sample{border-left:3px solid var(--line);padding:.1rem 0 .1rem .9rem;margin:0 0 1rem}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr));gap:0 1.6rem}
.sample .at{color:var(--muted);font-size:.82rem;font-variant-numeric:tabular-nums}
.sample pre{margin:.15rem 0 0}
.sample pre b{font-weight:400;color:var(--muted)}
.sample.last{border-color:var(--c1)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:.88rem/1.5 var(--mono);margin:.3rem 0;tab-size:4}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--muted);font-size:.92rem;padding:.2rem 0}
details[open]>summary{margin-bottom:.5rem}
ul.tree{list-style:none;margin:0;padding-left:0;font-size:.92rem}
ul.tree ul{list-style:none;padding-left:1.1rem;border-left:1px solid var(--line);margin:.2rem 0 .2rem .3rem}
ul.tree li{margin:.25rem 0;overflow-wrap:anywhere}.role{color:var(--muted)}
a{color:var(--c1)}
footer{color:var(--muted);font-size:.84rem;margin-top:1.6rem}
.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.88rem;margin:.2rem 0 .9rem;padding:0;list-style:none}
.legend li{display:flex;align-items:center;gap:.45rem;min-width:0}.legend svg{flex:none;width:1.7rem;height:.7rem}
.mark{display:inline-block;width:.7rem;height:.7rem;border-radius:50%;flex:none;margin-right:.45rem;vertical-align:-.03rem}
.grid figure{max-width:40rem}.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,15.5rem),1fr))}
.strips{display:grid;grid-template-columns:minmax(6rem,max-content) minmax(0,1fr) minmax(11rem,max-content);gap:0 1.1rem;align-items:center;
font-size:.92rem}
.strips .row{display:contents}.strips .l{max-width:17rem;padding:.2rem 0}.strips .v{font-variant-numeric:tabular-nums;font-size:.86rem}
.strips svg{display:block;width:100%;height:2.5rem;overflow:visible}.strips svg.axis{height:2.1rem}
.verdict{border-left:3px solid var(--line);padding-left:.9rem}
.tag{color:var(--muted);font-size:.8rem}
table.v th{white-space:normal;overflow-wrap:normal;vertical-align:bottom}table.v td{vertical-align:middle}.w,.badge{white-space:nowrap}
table.v td{min-width:3rem}.after{margin:.9rem 0 0}.after p{margin:.2rem 0}.lead+.note{margin-top:.6rem}.card.heed{border-color:var(--warn)}
h3 .mark{vertical-align:0}figcaption span.w{color:inherit;font-weight:inherit}
@media(max-width:640px){.badge{white-space:normal}table.keep td,table.keep th{padding-right:.55rem}
table.keep td:first-child,table.keep th:first-child{position:sticky;left:0;
background:var(--card);max-width:8rem;min-width:5.5rem}
.strips{grid-template-columns:1fr;gap:0}.strips .row{display:block;margin-bottom:.55rem}.strips .l{max-width:none}
table.stack thead{display:none}table.stack,table.stack tbody,table.stack tr{display:block}table.stack td{display:grid;max-width:none;
grid-template-columns:minmax(8.2rem,38%) minmax(0,1fr);gap:.8rem;border:0;padding:.16rem 0;justify-items:start;
text-align:left;white-space:normal}
table.stack td::before{content:attr(data-label);color:var(--muted);font-size:.86rem}
table.stack td:first-child{font-weight:650;display:block}
table.stack td:first-child::before{content:none}table.stack tr{border-bottom:1px solid var(--line);padding:.55rem 0}
table.stack tr:last-child{border-bottom:0}}
@media(max-width:520px){.card{padding:.9rem .9rem}.bars{grid-template-columns:1fr}
.bar{display:grid;grid-template-columns:1fr auto;gap:.15rem .8rem}.bar .track{grid-column:1/-1;grid-row:2}
dl{grid-template-columns:minmax(5rem,40%) minmax(0,1fr)}}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}}
""".strip().replace("\n", "")
