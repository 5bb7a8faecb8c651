"""lab.py DIR NOTEBOOK [NAME=VALUE ...] : opens NOTEBOOK of DIR in JupyterLab (Debian's chromium, playwright), Run > Run All Cells, waits for the end, saves,
then says: cells run, errors, stderr lines, last line."""
import json, os, re, subprocess, sys, time
from playwright.sync_api import sync_playwright
folder, name, port = sys.argv[1], sys.argv[2], int(os.environ.get("PORT", 8899))
env = os.environ | {"JUPYTER_CONFIG_DIR": f"/tmp/jcfg{port}", "JUPYTER_DATA_DIR": f"/tmp/jdata{port}"}
# the kernelspec is that of the venv
server = subprocess.Popen(["/tmp/venv/bin/jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=x", "--ServerApp.root_dir=" + folder],
                          env=env, stdout=open(f"/tmp/lab{port}.log", "w"), stderr=subprocess.STDOUT)
path = os.path.join(folder, name)
limit = float(os.environ.get("LIMIT", 3600))
begun = time.time()
try:
    for _ in range(60):
        time.sleep(1)
        if "is running at" in open(f"/tmp/lab{port}.log").read(): break
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = b.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"http://127.0.0.1:{port}/lab/tree/{name}?token=x", timeout=90000)
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90000)
        page.wait_for_timeout(6000)
        for text in ("Select", "Dismiss", "No"):  # kernel choice, news
            k = page.locator(f".jp-Dialog-button:has-text('{text}')")
            if k.count(): k.first.click(timeout=3000); page.wait_for_timeout(1000)
        page.click("text=Edit"); page.wait_for_timeout(300); page.click("text=Clear Outputs of All Cells"); page.wait_for_timeout(500)
        page.click(".jp-MainAreaWidget:not(.lm-mod-hidden) .jp-Notebook .jp-Cell >> nth=0")
        page.click("#jp-mainmenu-run, .lm-MenuBar-itemLabel:text-is('Run')"); page.wait_for_timeout(500)
        page.click("text=Run All Cells")
        while time.time() - begun < limit:
            page.wait_for_timeout(5000)
            title = page.evaluate("document.title")
            page.keyboard.press("Control+s"); page.wait_for_timeout(1500)
            nb = json.load(open(path)); code = [c for c in nb["cells"] if c["cell_type"] == "code"]
            done = sum(c["execution_count"] is not None for c in code)
            errors = [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
            if errors or "Run all:" in json.dumps(code[-1]["outputs"]): break
        page.screenshot(path=f"/tmp/lab{port}.png")
        b.close()
    err = [o for c in code for o in c["outputs"] if o.get("name") == "stderr"]
    print(name, f"{done}/{len(code)} cells", "errors:", [e["evalue"][:200] for e in errors], "stderr:", ["".join(e["text"])[:200] for e in err], "last:", "".join(code[-1]["outputs"][0]["text"]).strip() if code[-1]["outputs"] else None)
finally:
    server.terminate()
