"""Small TIFFs that OpenSlide takes for those of Leica, Philips, Ventana and Hamamatsu."""

import tifffile

TILE = 256
_LEICA = "http://www.leica-microsystems.com/scn/2010/10/01"
_HOW = {"photometric": "rgb", "compression": "jpeg", "tile": (TILE, TILE), "metadata": None}


def leica(path, rgb):
    """Directory 0 is the macro image, 1 and 2 are the levels of the scan, which lies within it."""
    (height, width), nm = rgb.shape[:2], 500

    def image(sizes, factor, offset, first, objective):
        levels = "".join(
            f'<dimension sizeX="{w}" sizeY="{h}" r="{n}" ifd="{first + n}"/>'
            for n, (w, h) in enumerate(sizes)
        )
        return (
            f'<image name="i"><pixels sizeX="{sizes[0][0]}" sizeY="{sizes[0][1]}">{levels}</pixels>'
            f'<view sizeX="{factor * width * nm}" sizeY="{factor * height * nm}"'
            f' offsetX="{offset * nm}" offsetY="{offset * nm}"/><scanSettings>'
            f"<objectiveSettings><objective>{objective}</objective></objectiveSettings>"
            "<illuminationSettings><illuminationSource>brightfield</illuminationSource>"
            "</illuminationSettings></scanSettings></image>"
        )

    small = (width // 4, height // 4)
    xml = (
        f'<scn xmlns="{_LEICA}"><collection sizeX="{2 * width * nm}" sizeY="{2 * height * nm}">'
        + image([small], 2, 0, 0, 0.6)
        + image([(width, height), small], 1, TILE, 1, 20)
        + "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(rgb[::4, ::4], description=xml, **_HOW)
        tiff.write(rgb, **_HOW)
        tiff.write(rgb[::4, ::4], **_HOW)


def philips(path, rgb, tiles=None, size=None):
    """Levels 1, 2 and 4; or one of ``size`` (width, height) px in the tiles given, encoded."""

    def attribute(name, group, element, kind, value):
        where = f'Name="{name}" Group="{group}" Element="{element}" PMSVR="{kind}"'
        return f"<Attribute {where}>{value}</Attribute>"

    def spacing(mm):
        pair = f'"{mm:g}" "{mm:g}"'
        return attribute("DICOM_PIXEL_SPACING", "0x0028", "0x0030", "IDoubleArray", pair)

    def array(name, group, element, kind, items):
        found = "".join(f'<DataObject ObjectType="{kind}">{one}</DataObject>' for one in items)
        return attribute(name, group, element, "IDataObjectArray", f"<Array>{found}</Array>")

    factors = (1, 2, 4) if tiles is None else (1,)
    image = (
        attribute("PIM_DP_IMAGE_TYPE", "0x301D", "0x1004", "IString", "WSI")
        + spacing(0.0005)
        + array(
            "PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "0x1001", "0x8B01",
            "PixelDataRepresentation", [spacing(0.0005 * factor) for factor in factors],
        )
    )  # fmt: skip
    xml = (
        '<DataObject ObjectType="DPUfsImport">'
        + attribute("DICOM_MANUFACTURER", "0x0008", "0x0070", "IString", "PHILIPS")
        + array("PIM_DP_SCANNED_IMAGES", "0x301D", "0x1003", "DPScannedImage", [image])
        + "</DataObject>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for factor in factors:
            if tiles is None:
                pixels = {"data": rgb[::factor, ::factor]}
            else:
                pixels = {"data": tiles, "shape": (size[1], size[0], 3), "dtype": "uint8"}
            tiff.write(
                **pixels, description=xml if factor == 1 else None, software="Philips DP v1.0",
                subfiletype=factor > 1, **_HOW,
            )  # fmt: skip


def ventana(path, rgb):
    """Directory 0 is a label, 1 and 2 are levels of one area without overlaps."""
    columns, rows = rgb.shape[1] // TILE, rgb.shape[0] // TILE

    def number(column, row):
        return row * columns + (column if row % 2 == 0 else columns - 1 - column) + 1

    pairs = [
        ("RIGHT", number(x, y), number(x + 1, y)) for y in range(rows) for x in range(columns - 1)
    ] + [("UP", number(x, y), number(x, y + 1)) for y in range(rows - 1) for x in range(columns)]
    joints = "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{way}" Tile1="{one}"'
        f' Tile2="{other}" OverlapX="0" OverlapY="0"/>'
        for way, one, other in pairs
    )
    area = f'NumRows="{rows}" NumCols="{columns}" Pos-X="0" Pos-Y="0"'
    whole = (
        '<EncodeInfo Ver="2"><SlideInfo><AoiInfo XIMAGESIZE="256" YIMAGESIZE="256"/></SlideInfo>'
        f'<SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" Width="256" Height="256" {area}>'
        f"{joints}</ImageInfo></SlideStitchInfo>"
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    scan = '<Metadata><iScan ScanRes="0.5" Magnification="20"/></Metadata>'

    def xmp(text):
        return [(700, 1, len(text), text.encode(), False)]

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            rgb[::8, ::8], description="Label Image", photometric="rgb", metadata=None,
            extratags=xmp(scan),
        )  # fmt: skip
        tiff.write(rgb, description="level=0 mag=20 quality=90", extratags=xmp(whole), **_HOW)
        tiff.write(rgb[::2, ::2], description="level=1 mag=10 quality=90", **_HOW)


def hamamatsu(path, rgb):
    """Levels 1 and 2, each of one strip."""
    with tifffile.TiffWriter(path) as tiff:
        for factor in (1, 2):
            tags = [(65420, 4, 1, 1, True), (65421, 11, 1, 20.0 / factor, True)]
            tags += [(tag, 9, 1, 0, True) for tag in (65422, 65423, 65424)]
            tiff.write(
                rgb[::factor, ::factor], photometric="rgb", compression="jpeg", metadata=None,
                rowsperstrip=len(rgb) // factor, software="NDP.scan", extratags=tags,
                resolution=(20000, 20000), resolutionunit="CENTIMETER",
            )  # fmt: skip
