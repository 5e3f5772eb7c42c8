/** @fileoverview A syntax error on line 4, where compilers stop, and one more. */

function first() {
  return 1 +;
}

const const second = 2;
