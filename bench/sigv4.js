// Checks AWS Signature Version 4 of GET and HEAD requests, in the Authorization header or in the
// query (presigned), before nginx sends a file. For benchmarks, it gives a fast server the work that
// an S3 server has per request. It is not an S3 server, and has one pair of keys.
import crypto from 'crypto';

const LIFE_SKEW_MS = 15 * 60 * 1000;

function hmac(key, text) {
  return crypto.createHmac('sha256', key).update(text).digest();
}

function hash(text) {
  return crypto.createHash('sha256').update(text).digest('hex');
}

// As in RFC 3986; encodeURIComponent leaves five more characters unescaped.
function escape(text) {
  return encodeURIComponent(text).replace(
    /[!'()*]/g, c => '%' + c.charCodeAt(0).toString(16).toUpperCase());
}

function parameters(query) {
  return query.split('&').filter(pair => pair).map(pair => {
    const at = pair.indexOf('=');
    const name = at < 0 ? pair : pair.slice(0, at);
    return [decodeURIComponent(name), at < 0 ? '' : decodeURIComponent(pair.slice(at + 1))];
  });
}

// The signature of the request with its parameters; undefined if it has none.
function claim(r, query) {
  const header = r.headersIn['Authorization'];
  if (header) {
    const parts = header.match(
      /^AWS4-HMAC-SHA256 Credential=([^,]+), *SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})$/);
    return parts && {
      credential: parts[1], headers: parts[2], signature: parts[3], life_ms: LIFE_SKEW_MS,
      date: r.headersIn['x-amz-date'] || '', payload: r.headersIn['x-amz-content-sha256'] || '',
    };
  }
  const given = {};
  query.forEach(pair => { given[pair[0]] = pair[1]; });
  return given['X-Amz-Signature'] && {
    credential: given['X-Amz-Credential'] || '', headers: given['X-Amz-SignedHeaders'] || '',
    signature: given['X-Amz-Signature'], life_ms: 1000 * Number(given['X-Amz-Expires']),
    date: given['X-Amz-Date'] || '', payload: 'UNSIGNED-PAYLOAD',
  };
}

function expected(r, said, path, query) {
  const canonical_query = query.filter(pair => pair[0] !== 'X-Amz-Signature')
    .map(pair => escape(pair[0]) + '=' + escape(pair[1])).sort().join('&');
  const headers = said.headers.split(';')
    .map(name => name + ':' + (r.headersIn[name] || '').trim().replace(/ +/g, ' ') + '\n').join('');
  const canonical = [r.variables.request_method, path, canonical_query, headers, said.headers,
                     said.payload].join('\n');
  const scope = said.credential.split('/').slice(1);
  const text = ['AWS4-HMAC-SHA256', said.date, scope.join('/'), hash(canonical)].join('\n');
  const key = scope.reduce(hmac, 'AWS4' + r.variables.s3_secret_key);
  return crypto.createHmac('sha256', key).update(text).digest('hex');
}

function check(r) {
  const parts = r.variables.request_uri.split('?');
  const query = parameters(parts[1] || '');
  const said = claim(r, query);
  if (!said || said.credential.split('/')[0] !== r.variables.s3_access_key) {
    return r.return(403);
  }
  const signed_ms = Date.parse(
    said.date.replace(/^(....)(..)(..)T(..)(..)(..)Z$/, '$1-$2-$3T$4:$5:$6Z'));
  const is_current = Math.abs(Date.now() - signed_ms) <= said.life_ms;  // false for a bad date
  return r.return(is_current && expected(r, said, parts[0], query) === said.signature ? 204 : 403);
}

export default { check };
