"""Draws the test pictures of this folder and stores what Pillow reads in them.

Every picture NAME.EXT comes with NAME.EXT.rgb: 8-bit RGB rows, upright, alpha dropped, sixteen bits rounded to eight.
resize.json holds what OpenCV makes of pictures for the resize modes. Run in an environment made by
    pip install pillow==13.0.0 pypng==0.20220715.0 opencv-python-headless numpy
"""

import io
import json
from pathlib import Path

import cv2
import numpy
import png
from PIL import Image, ImageOps

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 37, 23


def scene(width=WIDTH, height=HEIGHT):
    """A smooth gradient with a bright disc: no flip or rotation leaves it as it is."""
    y, x = numpy.mgrid[0:height, 0:width].astype(float)
    red = 255 * x / (width - 1)
    green = 255 * y / (height - 1)
    blue = 255 * (1 - x / (width - 1)) * y / (height - 1)
    disc = (x - width * 0.3) ** 2 + (y - height * 0.35) ** 2 < (height * 0.2) ** 2
    picture = numpy.stack([red, green, blue], axis=2)
    picture[disc] = [240, 230, 90]
    return picture.round().astype(numpy.uint8)


def save(name, data):
    (FOLDER / name).write_bytes(data)
    if "truncated" in name or "_bad" in name:
        return
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I"):  # sixteen bits of grey
        grey = (numpy.asarray(picture).astype(numpy.uint32) + 128) // 257
        pixels = numpy.repeat(grey[:, :, None], 3, axis=2)
    elif name == "rgb16.png":  # Pillow keeps the upper eight bits only
        pixels = (cv2.imdecode(numpy.frombuffer(data, numpy.uint8), cv2.IMREAD_UNCHANGED)[:, :, ::-1].astype(int) + 128) // 257
    elif picture.mode in ("P", "LA", "PA", "RGBA"):
        pixels = numpy.asarray(picture.convert("RGBA"))[:, :, :3]
    else:
        pixels = numpy.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    header = f"{width} {height}\n".encode()
    (FOLDER / f"{name}.rgb").write_bytes(header + pixels.astype(numpy.uint8).tobytes())


def encoded(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def jpegs():
    colour = Image.fromarray(scene())
    for name, sampling in (("444", 0), ("422", 1), ("420", 2)):
        save(f"baseline_{name}.jpg", encoded(colour, "JPEG", quality=92, subsampling=sampling))
    progressive = encoded(colour, "JPEG", quality=92, progressive=True)
    save("progressive.jpg", progressive)
    save("restarts.jpg", encoded(colour, "JPEG", quality=92, restart_marker_blocks=2))
    save("grey.jpg", encoded(colour.convert("L"), "JPEG", quality=92))
    cmyk = encoded(colour.convert("CMYK"), "JPEG", quality=95)
    save("cmyk.jpg", cmyk)
    # The same numbers declared as YCCK: the transform byte of the Adobe segment.
    at = cmyk.index(b"Adobe") + 11
    save("ycck.jpg", cmyk[:at] + b"\x02" + cmyk[at + 1 :])
    for orientation in range(1, 9):
        save(f"orientation_{orientation}.jpg", encoded(colour, "JPEG", quality=92, exif=exif(orientation)))
    whole = encoded(colour, "JPEG", quality=92)
    save("trailing_zeros.jpg", whole + bytes(64))
    save("truncated_half.jpg", whole[: len(whole) // 2])
    save("truncated_end.jpg", whole[:-6])
    save("truncated_progressive.jpg", progressive[: len(progressive) * 2 // 3])


def pngs():
    rgb = scene()
    colour = Image.fromarray(rgb)
    alpha = numpy.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(numpy.uint8)
    rgba = Image.fromarray(numpy.dstack([rgb, alpha]))
    whole = encoded(colour, "PNG")
    save("rgb.png", whole)
    save("rgba.png", encoded(rgba, "PNG"))
    save("grey.png", encoded(colour.convert("L"), "PNG"))
    save("grey_alpha.png", encoded(rgba.convert("LA"), "PNG"))
    save("one_bit.png", encoded(colour.convert("1"), "PNG"))
    palette = colour.quantize(32)
    save("palette.png", encoded(palette, "PNG"))
    save("palette_transparent.png", encoded(palette, "PNG", transparency=3))
    save("palette_two_bit.png", encoded(colour.quantize(4), "PNG", bits=2))
    save("orientation_6.png", encoded(colour, "PNG", exif=exif(6)))
    deep = rgb.astype(numpy.uint16) * 257 + 57
    out = io.BytesIO()
    png.Writer(WIDTH, HEIGHT, greyscale=False, bitdepth=16).write(out, deep.reshape(HEIGHT, -1).tolist())
    save("rgb16.png", out.getvalue())
    out = io.BytesIO()
    png.Writer(WIDTH, HEIGHT, greyscale=True, bitdepth=16).write(out, deep[:, :, 1].tolist())
    save("grey16.png", out.getvalue())
    out = io.BytesIO()
    png.Writer(WIDTH, HEIGHT, greyscale=False, bitdepth=8, interlace=True).write(out, rgb.reshape(HEIGHT, -1).tolist())
    save("interlaced.png", out.getvalue())
    save("truncated.png", whole[: len(whole) // 2])


def webps():
    rgb = scene()
    colour = Image.fromarray(rgb)
    alpha = numpy.full((HEIGHT, WIDTH), 128, numpy.uint8)
    rgba = Image.fromarray(numpy.dstack([rgb, alpha]))
    lossy = encoded(colour, "WEBP", quality=90)
    save("lossy.webp", lossy)
    save("lossless.webp", encoded(colour, "WEBP", lossless=True))
    save("alpha.webp", encoded(rgba, "WEBP", lossless=True, exact=True))
    save("alpha_lossy.webp", encoded(rgba, "WEBP", quality=90, exact=True))
    other = Image.fromarray(255 - rgb)
    save("animated.webp", encoded(colour, "WEBP", save_all=True, append_images=[other], duration=100, lossless=True))
    save("orientation_3.webp", encoded(colour, "WEBP", lossless=True, exif=exif(3)))
    save("truncated.webp", lossy[: len(lossy) // 2])


def bmps():
    colour = Image.fromarray(scene())
    whole = encoded(colour, "BMP")
    save("rgb.bmp", whole)
    save("grey.bmp", encoded(colour.convert("L"), "BMP"))
    save("palette.bmp", encoded(colour.quantize(32), "BMP"))
    save("one_bit.bmp", encoded(colour.convert("1"), "BMP"))
    save("truncated.bmp", whole[: len(whole) // 2])


def resizes():
    """OpenCV's answers for sizes that shrink, grow and do both; sampled, to keep the file small."""
    cases = []
    for (width, height), (to_width, to_height) in (
        ((37, 23), (64, 40)),
        ((200, 120), (64, 38)),
        ((97, 61), (61, 97)),
        ((640, 360), (320, 180)),
        ((50, 50), (160, 160)),
    ):
        picture = scene(width, height)
        for name, filter in (("bilinear", cv2.INTER_LINEAR), ("bicubic", cv2.INTER_CUBIC)):
            out = cv2.resize(picture, (to_width, to_height), interpolation=filter)
            rows, columns = range(0, to_height, 5), range(0, to_width, 7)
            samples = [out[y, x].tolist() for y in rows for x in columns]
            cases.append({"from": [width, height], "to": [to_width, to_height], "filter": name, "samples": samples})
    (FOLDER / "resize.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    for old in [*FOLDER.glob("*.rgb"), *FOLDER.glob("*.jpg"), *FOLDER.glob("*.png"), *FOLDER.glob("*.webp"), *FOLDER.glob("*.bmp")]:
        old.unlink()
    jpegs()
    pngs()
    webps()
    bmps()
    resizes()
