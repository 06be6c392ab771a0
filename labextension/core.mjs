// The builder wants a folder whose package.json says which packages JupyterLab shares with its extensions; it comes as a
// package of its own, so that JupyterLab itself need not be installed to build.
import { copyFileSync, mkdirSync } from 'node:fs';

mkdirSync('core', { recursive: true });
copyFileSync('node_modules/@jupyterlab/core-meta/core.package.json', 'core/package.json');
