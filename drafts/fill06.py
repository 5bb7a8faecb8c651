"""fill06.py EXECUTED.ipynb [SHORT.ipynb] [TEMPLATE.py]: puts the figures of an executed lesson 6 into the prose of lesson06_unet.tmpl.py
(or of TEMPLATE.py, such as rec6.tmpl.py) -> lesson06_unet.py, and says which claims of the prose the figures do not carry. Then: /tmp/tools/prose /tmp/lesson6/lesson06_unet.py EXECUTED.ipynb"""
import re, sys
import nbformat, pandas as pd
from bs4 import BeautifulSoup

HERE = "/tmp/lesson6/"
TEMPLATE = next((a for a in sys.argv[2:] if a.endswith(".py")), HERE + "lesson06_unet.tmpl.py")
sys.argv = [a for a in sys.argv if a == sys.argv[0] or not a.endswith(".py")]
def read(path):
    tables, said = [], ""
    for cell in nbformat.read(path, 4).cells:
        for o in cell.get("outputs", []):
            html = o.get("data", {}).get("text/html")
            if html and "<table" in html:
                soup = BeautifulSoup(html, "html.parser")
                columns = [c.text.strip() for c in soup.thead.find_all("tr")[0].find_all("th")][1:]
                body = [[c.text.strip() for c in tr.find_all(["th", "td"])] for tr in soup.tbody.find_all("tr")]
                if all(len(r) == len(columns) + 1 for r in body):
                    tables.append(pd.DataFrame([r[1:] for r in body], [r[0] for r in body], columns))
            elif o.output_type == "stream":
                said += o.text
    return tables, said
tables, said = read(sys.argv[1])
def find(row, column, where=None):
    for t in where or tables:
        if row in t.index and column in t.columns:
            return t
    raise KeyError((row, column))
m = lambda cell: str(cell).split(" ±")[0].strip()
n = lambda cell: float(re.match(r"[-+]?[\d.]+(?:e[-+]?\d+)?", str(cell).replace("−", "-"))[0])
first = find("first U-Net", "IoU")
levels, gains = find("reference", "validation IoU"), find("no skip connections", "validation: Holm's p")
def candidates(tables, said):
    line = re.search(r"best on validation, one view: (.*)", said)
    chosen = line[1].strip() if line else "final network"
    return find(chosen, "validation IoU", tables), chosen
cand, chosen = candidates(tables, said)
views = next(i for i in cand.index if i.startswith(chosen + ", ") and i.endswith("views"))
final, kinds = find("IoU", "sd over seeds"), find("fluorescence", "IoU, U-Net")
defs, pixel = find("pooled over all pixels", "IoU of the same predictions"), find("the truth grown by one pixel", "all")
psnr, code = find("fluorescence", "autoencoder"), find("code", "kind: share right")
few = re.search(r"(\d+) labelled images, encoder minus random: ([-+][\d.]+) ± ([\d.]+), p = ([\d.]+)", said)
ap = re.search(r"AP at 0.5 on fluorescence: ([\d.]+) as a mean over images, ([\d.]+) pooled", said)
d = defs["IoU of the same predictions"]
ref = changes_ref = cand.loc["reference"]
v = {
    "first_seconds": re.search(r"tiles, trained in (\d+) seconds", said)[1], "first_iou": first.loc["first U-Net", "IoU"],
    "otsu_iou": first.loc["Otsu with watershed", "IoU"], "minutes": re.search(r"Run all: ([\d.]+)", said)[1],
    "iou": final.loc["IoU", "mean"], "iou_sd": final.loc["IoU", "sd over seeds"], "dice": final.loc["Dice", "mean"], "map": final.loc["mAP", "mean"],
    "iou1": m(cand.loc[chosen, "test IoU"]), "final_seconds": cand.loc[chosen, "seconds"],
    "views_gain": f"{n(cand.loc[views, 'test IoU']) - n(cand.loc[chosen, 'test IoU']):+.4f}",
    "reference_iou": m(ref["test IoU"]), "reference_map": m(ref["test mAP"]),
    "iou_last": d.iloc[0], "pooled": d.iloc[1], "two_class": d.iloc[2], "lowest_definition": min(d), "highest_definition": max(d),
    "grown": pixel.loc["the truth grown by one pixel", "all"], "shrunk": pixel.loc["the truth shrunk by one pixel", "all"],
    "psnr_f": psnr.loc["fluorescence", "autoencoder"], "psnr_s": psnr.loc["stained", "autoencoder"],
    "code_kind": code.loc["code", "kind: share right"], "colour_kind": code.loc["mean colour", "kind: share right"],
    "code_share": code.loc["code", "share of nuclei: R²"], "colour_share": code.loc["mean colour", "share of nuclei: R²"],
    "few_gain": few[2], "few_p": few[4], "few_half": few[3], "ap50": ap[1], "ap50_pooled": ap[2],
}
for k, kind in (("f", "fluorescence"), ("s", "stained"), ("b", "bright field")):
    v |= {f"iou_{k}": kinds.loc[kind, "IoU, U-Net"], f"otsu_{k}": kinds.loc[kind, "IoU, Otsu"], f"map_{k}": kinds.loc[kind, "mAP, U-Net"], f"otsu_map_{k}": kinds.loc[kind, "mAP, Otsu"]}
# the changes, in words: (what, 1 where the row adds it and -1 where the row takes it away)
WORDS = {
    "no skip connections": ("skip connections", "skip-соединения", -1), "no flips, no turns": ("flips and quarter turns", "отражения и повороты", -1),
    "grounds inverted, crops by kind": ("inverted grounds with crops drawn by kind", "инверсия светлого фона с выборкой фрагментов по видам", 1),
    "brightness, contrast, gamma": ("changes of brightness, contrast and gamma", "изменения яркости, контраста и гаммы", 1),
    "half the width": ("the full width against half of it", "полная ширина вместо половинной", -1), "twice the width": ("twice the width", "удвоенная ширина", 1),
    "Dice alone": ("cross-entropy beside Dice", "кросс-энтропия вместе с Dice", -1), "border class": ("the border class", "класс границы", 1),
}
def signed(name):  # the printed test gain, its sign turned where the row takes something away
    g = n(gains.loc[name, "test"])
    return abs(g), g * WORDS[name][2] > 0
claimed = [i for i in gains.index if n(gains.loc[i, "validation: Holm's p"]) < 0.05 and n(gains.loc[i, "test: Holm's p"]) < 0.05 and n(gains.loc[i, "validation"]) * n(gains.loc[i, "test"]) > 0]
claimed.sort(key=lambda i: -signed(i)[0])
helps, harms = [i for i in claimed if signed(i)[1]], [i for i in claimed if not signed(i)[1]]
rest = [i for i in gains.index if i not in claimed]
def listed(names, lang, figures=True, last=None):
    k, last = {"en": 0, "ru": 1}[lang], last or {"en": " and ", "ru": " и "}[lang]
    bits = [WORDS[i][k] + (f" ({signed(i)[0]:.4f})" if figures else "") for i in names]
    return bits[0] if len(bits) == 1 else ", ".join(bits[:-1]) + last + bits[-1] if bits else ""
cap = lambda text: text[:1].upper() + text[1:]
up = {True: {"en": "help", "ru": "повышают IoU"}, False: {"en": "harm", "ru": "снижают IoU"}}
v["improved_finding"] = " ".join(filter(None, [
    f"By the rule above, {listed(helps, 'en')} improve the test IoU." if helps else "No change improves the IoU by the rule above.",
    f"{cap(listed(harms, 'en'))} {'lowers' if len(harms) == 1 else 'lower'} it." if harms else "",
    f"Not shown at this length: {listed(rest, 'en', False)}." if rest else ""]))
v["improved_reading"] = "The points of both parts should agree where an effect is real; the panel on the right shows single nuclei, where a small change of pixels can join or cut nuclei."
v["improved_conclusion"] = " ".join(filter(None, [f"One change at a time, {listed(helps, 'en')} improve the test IoU." if helps else "", f"{cap(listed(harms, 'en'))} {'lowers' if len(harms) == 1 else 'lower'} it." if harms else "", f"For {listed(rest, 'en', False)} nothing is shown." if rest else ""]))
v["improved_conclusion_ru"] = " ".join(filter(None, [f"По отдельности IoU на тесте повышают: {listed(helps, 'ru')}." if helps else "", f"Снижают: {listed(harms, 'ru')}." if harms else "", f"Не доказано влияние: {listed(rest, 'ru', False)}." if rest else ""]))
top = helps[:2]
v["short_answer"] = (f"{listed(top, 'en')}; " if top else "") + "then width, crop size and length together"
shares = {c: (n(cand.loc[c, "validation IoU"]), m(cand.loc[c, "test IoU"])) for c in ("flips and turns", "kinds and light", "kinds, light and scale") if c in cand.index}
v["candidates_text"] = "On validation the candidates have " + ", ".join(f"{shares[c][0]:.4f} ({c})" for c in shares) + f" with one view{' (the chosen one: mean of its seeds)' if '±' in cand.loc[chosen, 'validation IoU'] else ''}; one seed each cannot tell such numbers apart, so nothing is claimed of what separates them. All are far ahead of the reference: at this size it is width, crops and length that carry the gain."
if not shares:
    v["candidates_text"] = "The step from the reference is made by several things at once; which of them carries how much is not separated here."
v["pixel_verdict"] = "The network's prediction ({}) is closer to the truth than that.".format(pixel.loc["the network's prediction", "all"]) if n(pixel.loc["the network's prediction", "all"]) > n(v["grown"]) else "The network's prediction has {}.".format(pixel.loc["the network's prediction", "all"])
good = float(few[4]) < 0.05
v["chosen_en"] = {"flips and turns": "flips and turns only", "kinds and light": "inverted grounds, crops by kind and changes of light", "kinds, light and scale": "inverted grounds, crops by kind and changes of light and scale", "final network": "inverted grounds, crops by kind and changes of light"}[chosen]
v["chosen_ru"] = {"flips and turns": "только отражения и повороты", "kinds and light": "с инверсией светлого фона, выборкой фрагментов по видам и изменениями яркости", "kinds, light and scale": "с инверсией светлого фона, выборкой фрагментов по видам, изменениями яркости и масштаба", "final network": "с инверсией светлого фона, выборкой фрагментов по видам и изменениями яркости"}[chosen]
side = "better" if n(few[2]) > 0 else "worse"
v["few_verdict"] = f"p {few[4]}" + ("" if good else ", not shown")
v["few_finding"] = f"As a start where labels are few its encoder is {side} than random weights ({few[2]}, p {few[4]})." if good else f"As a start where labels are few its encoder shows no gain ({few[2]}, p {few[4]})."
v["few_reading"] = f"With {few[1]} labelled images, over the seeds, its encoder changes the IoU by {few[2]} ± {few[3]}: " + ("claimed, for this number of images and updates." if good else "not shown. What reconstruction needs, blobs and colours, a U-Net learns from a few labels in the same time.")
v["few_conclusion"] = f"With {few[1]} labelled images its encoder changes the IoU by {few[2]} (p {few[4]})" + ("." if good else ": not shown.")
v["few_conclusion_ru"] = f"При {few[1]} размеченных снимках старт с его энкодера меняет IoU на {few[2]} (p = {few[4]})" + ("." if good else ": выигрыш не доказан.")
if len(sys.argv) > 2:
    st, ss = read(sys.argv[2])
    sc, schosen = candidates(st, ss)
    v |= {"short_minutes": re.search(r"Run all: ([\d.]+)", ss)[1], "short_first": find("first U-Net", "IoU", st).loc["first U-Net", "IoU"], "short_reference": m(sc.loc["reference", "test IoU"]),
          "short_iou": m(next(sc.loc[i, "test IoU"] for i in sc.index if i.startswith(schosen + ", ") and i.endswith("views")))}
src = open(TEMPLATE, encoding="utf-8").read()
if "short_iou" not in v:
    src = re.sub(r"# \| short \|.*\n", "", src)
    src = src.replace("some half an hour on two cores", "some half an hour on two cores (estimated)")
v["minutes"] = f"{float(v['minutes']):.0f}"
if "short_minutes" in v: v["short_minutes"] = f"{float(v['short_minutes']):.0f}"
ru = src.index("# ## Выводы")
text = re.sub(r"\{\{(\w+)\}\}", lambda k: str(v[k[1]]), src[:ru])
end = src.index("# ## References", ru)
text += re.sub(r"\{\{(\w+)\}\}", lambda k: re.sub(r"(?<=\d)\.(?=\d)", ",", str(v[k[1]])), src[ru:end]).replace("+0,", "+0,") + src[end:]
open(HERE + "lesson06_unet.py", "w", encoding="utf-8").write(text)
print(v)
claims = {
    "final IoU >= 0.866": n(v["iou"]) >= 0.866, "Dice >= 0.926": n(v["dice"]) >= 0.926, "mAP >= 0.59": n(v["map"]) >= 0.59, "20 minutes": float(v["minutes"]) <= 20,
    "first U-Net beats Otsu": n(v["first_iou"]) > n(v["otsu_iou"]), "final beats the reference": n(v["iou1"]) > n(v["reference_iou"]),
    "all candidates ahead of the reference": all(n(cand.loc[c, "test IoU"]) > n(v["reference_iou"]) + 0.005 for c in shares),
    "views help": n(v["views_gain"]) > 0, "network above the truth moved by a pixel": n(pixel.loc["the network's prediction", "all"]) > max(n(v["grown"]), n(v["shrunk"])),
    "code holds the share of nuclei, colour does not": n(v["code_share"]) > n(v["colour_share"]) + 0.2, "mean colour tells the kinds": n(v["colour_kind"]) > 0.95,
    "network ahead of Otsu in every kind": all(n(v[f"iou_{k}"]) > n(v[f"otsu_{k}"]) for k in "fsb"), "skip connections among what helps": "no skip connections" in helps,
    "level with published means (0.85 to 0.875)": 0.85 < n(v["iou"]) < 0.885,
}
for claim, holds in claims.items():
    print("ok  " if holds else "NOT ", claim)
