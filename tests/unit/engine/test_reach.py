"""Which of the decoders' code a stranger's bytes reach: the formats that are meant, and nothing that opens more."""

from __future__ import annotations

import io
import socket

import av
import pytest
from PIL import Image
from tests.unit.engine.hostile_media import EPS
from tests.unit.engine.media_makers import copied, encode, film, picture, saved

from reranker_engine.inference import media
from reranker_engine.inference.errors import InputError
from reranker_engine.inference.media import IMAGE_FORMATS, MediaReader
from reranker_engine.inference.streams import DECODERS, VIDEO_FORMATS


def frames(data):
    return len(list(MediaReader().video(data, fps=1000.0, max_frames=768).frames))


USED = [
    ("mpeg2video", "mpegts", {}),
    ("mpeg1video", "mpeg", {}),
    ("dnxhd", "mov", {"pixels": "yuv422p", "size": (1920, 1080), "options": {"b": "120M"}}),
    ("dvvideo", "mov", {"pixels": "yuv420p", "size": (720, 576), "rate": 25}),
    ("flv", "flv", {}),
    ("gif", "gif", {"pixels": "rgb8"}),
    ("ffv1", "matroska", {}),
    ("huffyuv", "avi", {"pixels": "yuv422p"}),
    ("mjpeg", "avi", {"pixels": "yuvj420p"}),
    ("mpeg4", "avi", {}),
    ("prores_ks", "mov", {"pixels": "yuv422p10le"}),
    ("libx265", "mp4", {"options": {"x265-params": "log-level=none:pools=none"}}),
    ("libvpx-vp9", "webm", {"options": {"lag-in-frames": "0"}}),
    ("libsvtav1", "mp4", {"options": {"preset": "10"}}),
]


def made(codec, form, more):
    more = {"options": {}} | more
    rate = more.pop("rate", None)

    def prepare(stream):
        if rate:
            stream.codec_context.framerate = rate

    return encode(range(6), form=form, codec=codec, prepare=prepare, **more)


@pytest.mark.parametrize(("codec", "form", "more"), USED, ids=[one[0] for one in USED])
def test_what_phones_browsers_editors_and_cameras_write_is_decoded(codec, form, more):
    assert frames(made(codec, form, more)) == 6


UNUSED = [
    ("png", "mov", {"pixels": "rgb24"}),
    ("rawvideo", "avi", {}),
    ("msmpeg4", "avi", {}),
    ("wmv2", "avi", {}),
    ("cinepak", "mov", {"pixels": "rgb24"}),
    ("qtrle", "mov", {"pixels": "rgb24"}),
    ("snow", "avi", {"options": {"strict": "-2"}}),
    ("zmbv", "avi", {"pixels": "bgr0"}),
    ("asv1", "avi", {}),
    ("svq1", "mov", {"pixels": "yuv410p"}),
    ("utvideo", "avi", {}),
    ("jpeg2000", "mov", {}),
]


@pytest.mark.parametrize(("codec", "form", "more"), UNUSED, ids=[f"{one[0]} in {one[1]}" for one in UNUSED])
def test_any_other_codec_is_refused_with_its_name_and_the_mend(codec, form, more):
    words = rf"its codec is {codec}, which is not decoded here\); save it with H\.264, H\.265, VP9 or AV1"
    with pytest.raises(InputError, match=words):
        frames(made(codec, form, more))


def test_a_stream_that_is_not_looked_at_is_not_decoded_either():
    """Opening a file makes FFmpeg decode some of each stream: a picture's size shows whether it did."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        streams = [container.add_stream(codec, rate=30) for codec in ("libx264", "utvideo")]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(6):
            for stream in streams:
                frame = av.VideoFrame.from_image(picture(40 + index))
                frame.pts = index
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    with av.open(io.BytesIO(buffer.getvalue())) as container:
        assert container.streams.video[1].codec_context.pix_fmt == "yuv420p"  # only decoding it tells
    with media._container(buffer.getvalue()) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.video[1].codec_context.pix_fmt is None
    assert frames(buffer.getvalue()) == 6


@pytest.fixture
def address():
    """An address where it would be seen that somebody came."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/film.ts"
        with pytest.raises(BlockingIOError):
            listener.accept()


LISTS = {
    "HLS": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
    "HLS with a key": (
        '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n#EXTINF:2,\n{0}\n#EXT-X-ENDLIST\n'
    ),
    "ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "DASH": (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ),
    "IMF": (
        '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
        "<Id>urn:uuid:0</Id><EditRate>24 1</EditRate><Asset>{}</Asset></CompositionPlaylist>"
    ),
    "SDP": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n"
    ),
    "an address alone": "{}",
    "a filter": "movie={},scale=96:64",
    "a pattern of pictures": "{}%03d.png",
    "part of a file": "subfile,,start,0,end,0,,:{}",
    "VobSub": (
        "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\n{}\n"
        "timestamp: 00:00:00:000, filepos: 000000000\n"
    ),
    "a QuickTime link": "rtsptext{}",
    "an ASX list": '<asx version="3.0"><entry><ref href="{}"/></entry></asx>',
    "an SMIL list": '<smil><body><video src="{}"/></body></smil>',
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_what_names_files_or_addresses_opens_nothing(name, tmp_path, monkeypatch, address):
    """FFmpeg takes many of these for videos and opens what they name, which here is a video that would be seen."""
    (tmp_path / "film.ts").write_bytes(copied(film(), form="mpegts"))
    monkeypatch.chdir(tmp_path)
    for target in ("film.ts", str(tmp_path / "film.ts"), f"file:{tmp_path}/film.ts", address):
        with pytest.raises(InputError, match="cannot be decoded as a video"):
            frames(LISTS[name].format(target).encode())


def test_without_the_list_of_formats_it_would(tmp_path, monkeypatch):
    """That the test above can fail."""
    (tmp_path / "film.ts").write_bytes(copied(film(), form="mpegts"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(media, "formats_of", lambda _: (*VIDEO_FORMATS, "concat"))
    as_it_is = av.open
    monkeypatch.setattr(
        av, "open", lambda data, mode, options: as_it_is(data, mode, options=options | {"protocol_whitelist": "file"})
    )
    assert frames(LISTS["ffconcat"].format("film.ts").encode()) > 0


def test_a_film_elsewhere_that_a_film_refers_to_is_not_opened(tmp_path, monkeypatch):
    """QuickTime may keep its pictures in another file, which it names."""
    (tmp_path / "film.mp4").write_bytes(film())
    monkeypatch.chdir(tmp_path)
    data = film()
    assert data.count(b"url \0\0\0\1") == 1  # "in this file"
    alone = data[: data.index(b"mdat") + 4] + bytes(data.index(b"moov") - data.index(b"mdat") - 8)
    moved = alone + data[data.index(b"moov") - 4 :].replace(b"url \0\0\0\1", b"url \0\0\0\0")
    with pytest.raises(InputError):
        frames(moved)


def test_no_other_format_of_pillows_is_tried(monkeypatch):
    Image.init()
    tried = []

    def note(name, accept):
        def accepts(prefix):
            tried.append(name)
            return accept(prefix)

        return accepts

    for name, (factory, accept) in list(Image.OPEN.items()):
        if accept is not None:
            monkeypatch.setitem(Image.OPEN, name, (factory, note(name, accept)))
    for data in (EPS, saved(picture(9), "ICO"), saved(picture(9), "JPEG2000"), b"%PDF-1.7", b"8BPS\0\1", b"FLIC" * 99):
        with pytest.raises(InputError, match="cannot be decoded as an image"):
            MediaReader().image(data)
        assert not MediaReader(media=[data])._opens(data)
    assert tried
    assert set(tried) <= set(IMAGE_FORMATS)
    assert set(Image.OPEN) > set(IMAGE_FORMATS)


def test_the_lists_name_what_ffmpeg_has():
    """A misspelt name would shut out a format in silence."""
    assert set(VIDEO_FORMATS) <= {name for one in av.formats_available for name in one.split(",")}
    assert set(DECODERS) - {"libaom-av1"} <= set(av.codecs_available)
