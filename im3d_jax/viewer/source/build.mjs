// Bundles the page's program with three.js into ../viewer.min.js and copies three.js' licence beside it.
import { build } from "esbuild";
import { copyFileSync } from "node:fs";

await build({
  entryPoints: ["src/main.js"],
  outfile: "../viewer.min.js",
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  banner: { js: "/* three.js r187, MIT, see LICENSE.three.txt; source and recipe: im3d_jax/viewer/source */" },
});
copyFileSync("node_modules/three/LICENSE", "../LICENSE.three.txt");
