// SPDX-License-Identifier: MIT OR Apache-2.0
//
// A server for inetd, in C++. Usage: inetd_cpp WAY SYNC: with 1 std::cout shares the buffer of stdio, with 0 it has
// its own.
#include <iostream>
#include <string>

#include "inetd.h"

int main(int argc, char **argv)
{
    std::string name;
    if (argc != 3)
        return 100;
    std::ios::sync_with_stdio(argv[2][0] == '1');
    std::cout << "hello, ";
    const int result = set_keys_by(argv[1]);
    if (result != 0)
        return result;
    std::cout << "who is there?" << std::endl;
    if (!std::getline(std::cin, name))
        return 5;
    std::cout << "good day, " << name << std::endl;
    if (!(std::cin >> name))
        return 6;
    std::cout << "bye, " << name << '\n';
    return 0;
}
