import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const here = new URL('./', import.meta.url).href

export function resolve(specifier, context, next) {
  if (specifier.endsWith('.css')) return { url: 'data:text/javascript,', shortCircuit: true }
  if (specifier.startsWith('.')) {
    for (const ending of ['', '.ts', '.tsx']) {
      const url = new URL(specifier + ending, context.parentURL)
      if (/\.(m?js|tsx?)$/.test(url.pathname) && existsSync(url)) return { url: url.href, format: 'module', shortCircuit: true }
    }
  }
  // As if it stood here, where npm has put it.
  const ours = /\.tsx?$/.test(context.parentURL ?? '')
  return next(specifier, ours ? { ...context, parentURL: here } : context)
}

export async function load(url, context, next) {
  if (!/\.tsx?$/.test(url)) return next(url, context)
  const text = await readFile(fileURLToPath(url), 'utf8')
  const { outputText } = ts.transpileModule(text, { compilerOptions: { target: 'ES2022', module: 'ESNext', jsx: 'react-jsx', jsxImportSource: 'preact' } })
  return { format: 'module', source: outputText, shortCircuit: true }
}
