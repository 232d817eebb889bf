"""Rules on tasks about media that a text model cannot see or make: pictures, recordings, web pages."""

from __future__ import annotations

import re

from pipeline.dataset.clean.finding import Finding, Texts

MARKDOWN = re.compile(
    r"!\[[^\]\n]{0,200}\](?:\(|\[\d)|<im(?:g|age)\b[^>\n]{0,200}?(?:src|url) ?=|\bimage(?: url)?: ?https?:", re.I
)
KIND = (
    r"(?:images?|pictures?|photos?|photographs?|pics?|paintings?|drawings?|sketch(?:es)?|figures?|graphs?|charts?|"
    r"diagrams?|maps?|illustrations?|artworks?|screenshots?|cartoons?|comics?|videos?(?: clips?)?|film clips?|"
    r"audios?|audio files?|sounds?|sound files?|recordings?|songs?|music|links?|urls?|attachments?|files?|documents?|"
    r"이미지|사진|그림|영상|동영상|음성|링크|첨부 ?파일|파일|도표|그래프)"
)
# "<image>", "[Insert photo here]", "(Link to photo)": the whole input, or after a label.
STAND_IN = re.compile(
    r"(?:[\w ]{0,30}: ?)?[\[<({]\s*(?:an? |the |this |insert |attached |sample |your |some |link to (?:an? |the )?|"
    r"link |image of |첨부된? |attach )*"
    + KIND
    + r"(?:\.(?:jpe?g|png|gif|bmp|mp3|mp4|wav))?(?: (?:here|attached|of|to|clip|link|showing|with|a|the|from|"
    r"taken|url|여기|첨부)\b[^\]>)}\n]{0,100})?\s*[\]>)}]\.?",
    re.I,
)
ANSWER_STAND_IN = re.compile(
    r"\s*[\[<(*]{1,2}\s*(?:(?:an?|the|insert|output|final|edited|cropped|graphical representation of|attached|3d|"
    r"animated|new) )*"
    + KIND.replace("links?|urls?|", "").replace("figures?|", "").replace("files?|documents?|", "")
    + r"\b[^\]>)\n]{0,120}[\]>)*]{1,2}\s*",
    re.I,
)
FAKE_PICTURE = re.compile(r"\s*(?:!\[[^\]\n]{0,200}\]\([^)\n]{0,400}\)|<(?:img|picture) [^>\n]{0,400}>)\s*", re.I)
MARKUP_TASK = re.compile(
    r"\b(?:html|markdown|tags?|code|snippet|css|regex|script|function|parse|extract|web ?site|web ?page|json|xml|url|"
    r"link|convert|format|python|javascript|program)\b|코드|태그|마크다운|함수|변환|추출",
    re.I,
)
URL = re.compile(r"(?:[\w ]{0,30}: ?)?<?(?:https?://|www\.)[^\s<>]{3,2000}>?\.?")
IS_URL = re.compile(r"\(?<?(?:https?://|www\.)[^\s<>]{3,2000}")
LONGEST_ASKED = 500  # characters before an address at the end of an instruction
SEARCHED = 20_000  # characters of an input that are searched for pictures
READING = re.compile(
    r"\b(?:summar\w+|article|blog|web ?page|web ?site|site|page|post|paper|essay|video|trailer|photo\w*|image|"
    r"picture|painting|artwork|story|text|read|news|review|describe|analy[sz]e|critique|evaluate|podcast|speech|"
    r"document|report|main (?:idea|point|argument)\w*|caption|headline|passage|recipe)\b|요약|기사|블로그|웹 ?페이지|"
    r"사이트|글을|읽고|영상|사진|이미지|논문|분석",
    re.I,
)
ABOUT_URL = re.compile(
    r"\b(?:urls?|links?|hyperlinks?|domains?|html|code|script|api|request|parse|regex|tags?|redirect|bookmark|"
    r"citation|cite|reference|protocol|port|path|python|curl|encode|shorten|valid\w*|format|address|program|function|"
    r"download|scrap\w+|crawl\w*|block|categor\w+|classify|type of|name)\b|도메인|주소|코드|함수|링크|형식",
    re.I,
)
DRAWING = re.compile(
    r"\s*(?:please |can you |could you |now )?(?:generate|create|draw|make|sketch|paint|design|produce|render|"
    r"illustrate|take|edit|crop|construct|compose|build|record|photoshop)\b(?: me)? (?:(?:an?|the|this|some|your|new|"
    r"simple|unique|creative|colou?rful|visual|digital|original|detailed|modern|abstract|political|company|movie|"
    r"line|bar|pie|scatter|flow|3d|looping|animated|data|single|minimalist\w*|beautiful|funny|\w+ing|following|given|"
    r"piece of|short|set of) ){0,5}(?:logos?|images?|pictures?|photos?|photographs?|drawings?|paintings?|"
    r"illustrations?|cartoons?|portraits?|artworks?|art|graphics?|infographics?|posters?|collages?|gifs?|videos?|"
    r"animations?|icons?|visuali[sz]ations?|charts?|flow ?charts?|bar graphs?|graphs?|3d models?|banners?|mock-?ups?|"
    r"melody|tune)\b(?! (?:description|caption|title|idea|name|prompt|script))",
    re.I,
)
KOREAN_DRAWING = re.compile(
    r"(?:그림|이미지|사진|로고|포스터|일러스트|초상화|만화|도표|그래프|동영상)(?:을|를|도|으로)? ?(?:하나 )?(?:그려|"
    r"그리|만들|생성|디자인|제작|촬영|편집)"
)


def image_task(texts: Texts) -> Finding | None:
    """Tasks on a picture, recording or file that is not in the row: "![alt](https://…)", "<image>", "[photo]".

    The answer to such a task is invented, and so is an answer that is only "[Bar chart]" or the address of a picture.
    Rows about markup or code, where the address is the text to work on, are left alone.
    Misses: pictures that are only mentioned ("the photo above").
    Source: AlpacaDataCleaned, classes 1 and 5 (tool_inputcheck.py, which also rejects "image:" before a description).
    """
    given, output = texts.given, texts.output
    if given and ("[" in given or "<" in given or "(" in given or "mage" in given or "{" in given):
        picture = MARKDOWN.search(given, 0, SEARCHED)
        if picture is None and len(given) <= 200:
            picture = STAND_IN.fullmatch(given.strip())
        if picture and not MARKUP_TASK.search(texts.asked):
            return Finding("the task is on a picture or file that is not there", None, "input", picture.start())
    if len(output) <= 700 and output.lstrip()[:1] in ("!", "[", "<", "(", "*"):
        picture = FAKE_PICTURE.fullmatch(output) or (ANSWER_STAND_IN.fullmatch(output) if len(output) <= 200 else None)
        if picture and not MARKUP_TASK.search(texts.asked):
            return Finding("the answer stands for a picture that is not there")
    return None


def url_task(texts: Texts) -> Finding | None:
    """Tasks on a web page of which only the address is given: "Summarize the article" with a URL as input.

    Tasks on the address itself (its domain, a link in HTML) are left alone.
    Misses: pages without an address.
    Source: AlpacaDataCleaned, class 1.
    """
    given = texts.input.strip()
    if "://" in given or "www." in given:
        url = URL.fullmatch(given)
        where, task = "input", texts.instruction
    elif not given and ("://" in texts.instruction or "www." in texts.instruction):
        task, _, last = texts.asked.rstrip().replace("\n", " ").rpartition(" ")
        # A long instruction contains the text, and the address at its end is the source of it.
        url, where = IS_URL.fullmatch(last) if len(task) <= LONGEST_ASKED else None, "instruction"
    else:
        return None
    if url and READING.search(task) and not ABOUT_URL.search(task):
        return Finding("the task is on a web page that is not there", None, where)
    return None


def drawing_task(texts: Texts) -> Finding | None:
    """Tasks that ask for a picture, a chart or a tune: "Design a logo", "그림을 그려 줘".

    Only reported by default: many of the answers describe the picture in words and are useful.
    Misses: requests that do not begin with the verb.
    Source: AlpacaDataCleaned, class 5.
    """
    task = texts.instruction[:300]
    request = DRAWING.match(task) or (None if task.isascii() else KOREAN_DRAWING.search(task))
    if request and not re.search(
        r"\b(?:code|python|program|html|css|svg|latex|markdown|script|ascii|table)\b|캡션|코드|설명|방법", task, re.I
    ):
        return Finding("the task asks for a picture or a recording", None, "instruction")
    return None
