import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { defineConfig, type Plugin } from 'vite'

const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as { dependencies: Record<string, string> }

/** Puts the licences of what is in the bundle beside it. */
const licences: Plugin = {
  name: 'licences',
  generateBundle() {
    const texts = Object.keys(manifest.dependencies).sort().map(name => {
      const file = readdirSync(join('node_modules', name)).find(f => /^licen[cs]e/i.test(f))
      if (!file) throw new Error(`${name} has no licence file`)
      return `${name}\n\n${readFileSync(join('node_modules', name, file), 'utf8').trim()}\n`
    })
    this.emitFile({ type: 'asset', fileName: 'licenses.txt', source: texts.join('\n----\n\n') })
  },
}

/** Writes down what the bundle was built from, as sha256sum does; a test compares it with what is there. */
const sources: Plugin = {
  name: 'sources',
  closeBundle() {
    const files = readdirSync('.', { recursive: true, withFileTypes: true })
      .filter(f => f.isFile()).map(f => join(f.parentPath, f.name))
      .filter(f => !f.startsWith('node_modules') && f !== 'sources.sha256' && f !== '.gitignore').sort()
    writeFileSync('sources.sha256', files.map(f => `${createHash('sha256').update(readFileSync(f)).digest('hex')}  ${f}\n`).join(''))
  },
}

// Names without hashes: the server answers each file with its own ETag, and a change of the bundle
// is a change of files, not of names.
export default defineConfig({
  base: '/console/',
  plugins: [licences, sources],
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    reportCompressedSize: false,
    rollupOptions: {
      output: { entryFileNames: 'assets/[name].js', chunkFileNames: 'assets/[name].js', assetFileNames: 'assets/[name][extname]' },
    },
  },
})
